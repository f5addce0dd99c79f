"""The plan of a dataset: everything that decides its bytes, kept beside them so that a folder never mixes two plans."""

import hashlib
import json
from typing import Any

from facelib.faces import PLAN_NAME, DatasetError, Folder


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
        f"{name}: {old.get(name, 'unset')!r}, now {new.get(name, 'unset')!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
