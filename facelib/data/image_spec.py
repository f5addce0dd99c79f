"""What the pixels of a face mean: alignment template, size, color order.

Datasets, checkpoints and evaluation sets carry one; whatever exchanges faces must agree on it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from facelib.data.errors import DatasetError


class Contract(BaseModel):
    """What pixels mean: two things that exchange faces must agree on it, or similarity scores are noise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    size: int
    colour: str = "RGB"

    def overlaid(self, said: Mapping[str, Any] | None) -> "Contract":
        """This contract with what `said`, as a checkpoint holds it, says of its fields; other entries are left out."""
        found = {name: value for name, value in (said or {}).items() if name in type(self).model_fields}
        return Contract(**{**self.model_dump(), **found})

    def require(self, other: "Contract", this_name: str, other_name: str) -> None:
        """Raise `DatasetError` naming both sides and every differing field unless `other` equals this contract."""
        differing = [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]
        if differing:
            details = "; ".join(f"{n}: {getattr(self, n)!r} against {getattr(other, n)!r}" for n in differing)
            raise DatasetError(
                f"{this_name} and {other_name} do not fit together ({details}). "
                "Faces must share template, size and colour order: align one of them again."
            )
