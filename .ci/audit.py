"""Audit of the installed packages, for `make lint`: no network needed, none asked for.

Fails when packages contradict each other (`pip check`) or differ from constraints.txt. Known vulnerabilities are looked
up only with AUDIT_ONLINE=1 and pip-audit installed, and it is said when they were not.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
TOOLS = {"pip", "setuptools", "wheel", "facelib"}


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    """name → version of a constraints file."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


def compare(installed: dict[str, str], wanted: dict[str, str]) -> tuple[list[str], list[str]]:
    """(packages of another version than pinned, packages without a pin), as lines."""
    differing = [f"{n} {v}, constraints.txt says {wanted[n]}" for n, v in installed.items() if wanted.get(n, v) != v]
    return sorted(differing), sorted(f"{n} {v}" for n, v in installed.items() if n not in wanted and n not in TOOLS)


def main() -> None:
    """Print what was found; exit 1 on a contradiction or another version."""
    found = {normal(d.metadata["Name"]): d.version.split("+")[0] for d in importlib.metadata.distributions()}
    differing, loose = compare(found, pinned(CONSTRAINTS.read_text(encoding="utf-8")))
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if loose:
        print(f"audit: no pin in constraints.txt for {', '.join(loose)}")
    for problem in [*differing, *(check.stdout.splitlines() if check.returncode else [])]:
        print(f"audit: {problem}", file=sys.stderr)
    failed = bool(differing) or check.returncode != 0
    if os.environ.get("AUDIT_ONLINE") == "1" and importlib.util.find_spec("pip_audit"):
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(CONSTRAINTS)]
        failed |= subprocess.run(command).returncode != 0
    else:
        print("audit: known vulnerabilities were not looked up (pip install pip-audit; AUDIT_ONLINE=1 make lint)")
    print(f"audit: {len(found)} packages, {'problems above' if failed else 'as pinned, no contradictions'}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
