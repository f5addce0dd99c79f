#!/usr/bin/env bash
# The environment of a node: what pyproject.toml asks for, at the versions of constraints.txt, into the `python` on PATH.
# The code itself comes with each job. Runs in the folder that holds the two files; does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")"
stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat .installed 2>/dev/null || true)" = "$stamp" ]; then exit 0; fi
python - > requirements.txt <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join(project["dependencies"] + extras["tensorflow"] + extras["s3"]))
PY
if [ "${1:-}" = "--list" ]; then cat requirements.txt; exit 0; fi
python -m pip install --disable-pip-version-check --constraint constraints.txt --requirement requirements.txt
echo "$stamp" > .installed
