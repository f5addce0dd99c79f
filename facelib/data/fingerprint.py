"""The plan of a dataset or a training.

Everything that decides its content, kept beside it so that a folder never mixes two.
"""

import hashlib
import json
from typing import Any

from facelib.data.errors import DatasetError
from facelib.data.manifest import PLAN_NAME
from facelib.data.storage import Folder


def plan_bytes(plan: dict[str, Any]) -> bytes:
    """Canonical JSON."""
    return json.dumps(plan, sort_keys=True, indent=1).encode()


def plan_hash(plan: dict[str, Any]) -> str:
    """Hash that a part carries in its footer."""
    return hashlib.sha256(plan_bytes(plan)).hexdigest()[:32]


def read_plan(folder: Folder) -> dict[str, Any]:
    """The plan of a folder; `DatasetError` when it is damaged."""
    try:
        plan = json.loads(folder.read(PLAN_NAME))
    except ValueError as error:
        raise DatasetError(f"{folder.uri}/{PLAN_NAME}: damaged ({error})") from None
    if not isinstance(plan, dict):
        raise DatasetError(f"{folder.uri}/{PLAN_NAME}: must hold a mapping")
    return plan


def compare_plans(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Every difference as `field: old, now new`; empty when they are the same."""
    new = json.loads(plan_bytes(new))
    return [
        f"{name}: {_short(old.get(name, 'unset'))}, now {_short(new.get(name, 'unset'))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def claim_folder(folder: Folder, plan: dict[str, Any]) -> None:
    """Write the plan into a new folder, or check that the folder was begun under the same one.

    Raises:
        DatasetError: names every setting that differs, or says that the folder belongs to something else.
    """
    if folder.exists(PLAN_NAME):
        differences = compare_plans(read_plan(folder), plan)
        if differences:
            raise DatasetError(
                f"{folder.uri} was made with other settings: {'; '.join(differences)}. "
                "Use another output folder, restore the settings, or delete the folder."
            )
    elif any(not name.startswith(".") for name in folder.names()):
        raise DatasetError(
            f"{folder.uri} is not empty and has no {PLAN_NAME}: it is not this job's. Use another folder."
        )
    else:
        folder.write(PLAN_NAME, plan_bytes(plan))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"
