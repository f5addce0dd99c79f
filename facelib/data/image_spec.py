"""What the pixels of a face mean: alignment template, size, color order.

Datasets, checkpoints and evaluation sets carry one; whatever exchanges faces must agree on it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from facelib.data.errors import DatasetError

ANY_TEMPLATE = "any"


class ImageSpec(BaseModel):
    """What pixels mean: two things that exchange faces must agree on it, or similarity scores are noise.

    The template `any` agrees with every other: a set that says so is not compared by its template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    size: int
    color: str = "RGB"

    def overlaid(self, named: Mapping[str, Any] | None) -> "ImageSpec":
        """This spec with the fields that a checkpoint names replaced; its other entries are ignored."""
        found = {name: value for name, value in (named or {}).items() if name in type(self).model_fields}
        return ImageSpec(**{**self.model_dump(), **found})

    def require(self, other: "ImageSpec", this_name: str, other_name: str) -> None:
        """Raise `DatasetError` naming both sides and every differing field unless `other` equals this spec."""
        differing = [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]
        if ANY_TEMPLATE in (self.template, other.template):
            differing = [name for name in differing if name != "template"]
        if differing:
            details = "; ".join(f"{n}: {getattr(self, n)!r} against {getattr(other, n)!r}" for n in differing)
            raise DatasetError(
                f"{this_name} and {other_name} do not fit together ({details}). "
                "Faces must share template, size and color order: align one of them again."
            )
