"""Whether constraints.txt resolves on every supported Python, for `make check-resolve`. Needs the package index.

Asks `uv pip compile` for each Python version that pyproject.toml names, all extras, wheels only: nothing is installed,
and the interpreters need not be there.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORM = "x86_64-manylinux_2_28"


def supported_versions(classifiers: list[str]) -> list[str]:
    """Minor versions such as "3.12" from `Programming Language :: Python :: 3.12`."""
    names = [line.removeprefix("Programming Language :: Python :: ") for line in classifiers]
    return [name for name in names if name.startswith("3.")]


def command(version: str) -> list[str]:
    """The resolution of all extras for one Python version."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--no-header", "--only-binary", ":all:"]
    target = ["--python-version", version, "--python-platform", PLATFORM]
    return [*uv, *target, "--all-extras", "--constraint", "constraints.txt", "pyproject.toml"]


def main() -> None:
    """Print one line a version; exit 1 when one does not resolve."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    failed = False
    for version in supported_versions(project["classifiers"]):
        done = subprocess.run(command(version), cwd=ROOT, capture_output=True, text=True)
        packages = sum("==" in line for line in done.stdout.splitlines())
        print(f"Python {version}: " + (f"{packages} packages" if done.returncode == 0 else done.stderr.strip()))
        failed |= done.returncode != 0
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
