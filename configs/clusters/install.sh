#!/usr/bin/env bash
# The environment of a node: what pyproject.toml asks for, at the versions of constraints.txt, into the `python` on PATH.
# The code itself comes with each job. Reads the two files beside it and writes nothing there: Docker makes the folder of
# mounted files as root. Does nothing when nothing changed; `--list` only says what would be installed.
set -euo pipefail
cd "$(dirname "$0")"
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
python - > "$requirements" <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
names = ("ray", "align", "plots", "export", "s3")
packages = project["dependencies"] + [package for name in names for package in extras[name]]
print("\n".join(dict.fromkeys(package for package in packages if not package.startswith("facelib["))))
PY
if [ "${1:-}" = "--list" ]; then cat "$requirements"; exit 0; fi

# The stamp lies in the environment that it speaks of, so a rebuilt one is filled again.
prefix=$(python -c 'import sys; print(sys.prefix)')
done_file=$prefix/.facelib-installed
if ! { : >> "$done_file"; } 2> /dev/null; then
  mkdir -p ~/.cache/facelib
  done_file=~/.cache/facelib/installed$(echo "$prefix" | tr / -)
fi
stamp=$(cat pyproject.toml constraints.txt install.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$done_file" 2> /dev/null || true)" = "$stamp" ]; then exit 0; fi

python -m pip install --disable-pip-version-check --constraint constraints.txt --requirement "$requirements"

# OpenCV's wheel needs two libraries of the system that Ray's images lack.
if ! python -c 'import cv2' 2> /dev/null; then
  as_root=""
  if command -v sudo > /dev/null; then as_root="sudo -n"; fi
  $as_root apt-get update && $as_root apt-get install -y --no-install-recommends libgl1 libglib2.0-0 || true
  if ! python -c 'import cv2'; then
    echo "OpenCV cannot be imported (above). It needs Debian's packages libgl1 and libglib2.0-0, which could not be" \
      "installed here: have them installed on this machine, or use an image that holds them." >&2
    exit 1
  fi
fi
echo "$stamp" > "$done_file"
