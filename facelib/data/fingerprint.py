"""The spec of a dataset or a training: every setting that decides its content.

It is kept beside the result, so that a folder never mixes two, and its hash is the fingerprint that parts carry.
"""

import hashlib
import json
from typing import Any

from facelib.data.errors import DatasetError
from facelib.data.manifest import SPEC_NAME
from facelib.data.storage import Folder

FORMER_NAME = "grown_from.json"


def spec_bytes(spec: dict[str, Any]) -> bytes:
    """Canonical JSON."""
    return json.dumps(spec, sort_keys=True, indent=1).encode()


def spec_fingerprint(spec: dict[str, Any]) -> str:
    """Hash that a part carries in its footer."""
    return hashlib.sha256(spec_bytes(spec)).hexdigest()[:32]


def read_spec(folder: Folder) -> dict[str, Any]:
    """The spec of a folder; `DatasetError` when it is damaged."""
    try:
        spec = json.loads(folder.read(SPEC_NAME))
    except ValueError as error:
        raise DatasetError(f"{folder.uri}/{SPEC_NAME}: damaged ({error})") from None
    if not isinstance(spec, dict):
        raise DatasetError(f"{folder.uri}/{SPEC_NAME}: must hold a mapping")
    return spec


def compare_specs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Every difference as `field: old, now new`; empty when they are the same."""
    new = json.loads(spec_bytes(new))
    return [
        f"{name}: {_short(old.get(name, 'unset'))}, now {_short(new.get(name, 'unset'))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def claim_output_dir(folder: Folder, spec: dict[str, Any], growing: str = "", finished: str = "") -> None:
    """Write the spec into a new folder, or check that the folder was begun under the same one.

    Args:
        growing: field of the spec that may be larger than it was; the folder then becomes an unfinished one of `spec`.
        finished: file whose presence means that the folder is finished; one of a smaller size is deleted.

    Raises:
        DatasetError: names every setting that differs, or says that the folder belongs to something else.
    """
    check_output_dir(folder, spec, growing)
    if not folder.exists(SPEC_NAME):
        folder.write(SPEC_NAME, spec_bytes(spec))
    elif smaller_size(folder, spec, growing) is not None:
        # In this order: killed in between, the folder is an unfinished one of the smaller size, and can still grow.
        former = [*former_fingerprints(folder), spec_fingerprint(read_spec(folder))]
        folder.write(FORMER_NAME, json.dumps(list(dict.fromkeys(former)), indent=1).encode())
        if folder.exists(finished):
            folder.fs.delete_file(f"{folder.path}/{finished}")
        folder.write(SPEC_NAME, spec_bytes(spec))


def check_output_dir(folder: Folder, spec: dict[str, Any], growing: str = "") -> None:
    """Check that a folder is new or was begun under `spec`, without writing to it.

    Args:
        growing: field that may be larger than it was.

    Raises:
        DatasetError: as `claim_output_dir`.
    """
    if folder.exists(SPEC_NAME):
        differences = compare_specs(read_spec(folder), spec)
        if differences and smaller_size(folder, spec, growing) is None:
            raise DatasetError(
                f"{folder.uri} was made with other settings: {'; '.join(differences)}. "
                "Use another output folder, restore the settings, or delete the folder."
            )
    elif any(not name.startswith(".") for name in folder.names()):
        raise DatasetError(
            f"{folder.uri} is not empty and has no {SPEC_NAME}: it is not this job's. Use another folder."
        )


def smaller_size(folder: Folder, spec: dict[str, Any], growing: str) -> int | None:
    """The size that a folder was begun with, if `spec` asks for more of it and differs in nothing else."""
    if not growing or not folder.exists(SPEC_NAME):
        return None
    old = read_spec(folder)
    if growing not in old or not old[growing] < spec[growing] or compare_specs({**old, growing: spec[growing]}, spec):
        return None
    return int(old[growing])


def former_fingerprints(folder: Folder) -> list[str]:
    """Fingerprints of the specs that the folder grew from; parts that carry them are as good as new ones."""
    return list(json.loads(folder.read(FORMER_NAME))) if folder.exists(FORMER_NAME) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"
