"""What a backbone file holds, whatever its format."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


class CheckpointError(ValueError):
    """The file is no backbone this library knows, or does not fit the architecture it claims."""


@dataclass(frozen=True)
class BackboneCheckpoint:
    """What a backbone file holds.

    Attributes:
        format: `facelib.backbone`, `usynthface`, `unpg`, `magface` or `arcface_torch`.
        name, settings: arguments of `build_backbone`.
        state_dict: names as in that network.
        image_spec: None for published formats: they do not say what they trained on.
        normalization: of the pixels that the weights expect, one of `NORMALIZATIONS`; None: unknown.
    """

    format: str
    name: str
    settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    image_spec: dict[str, Any] | None
    normalization: str | None = None

    def require_normalization(self, path: object, given: str = "auto") -> str:
        """The normalization of the file, or the one given for a file that does not state it.

        Args:
            path: of the file, for messages.
            given: value of the setting `model.normalization`.

        Raises:
            CheckpointError: the file does not state it and none is given, or it states another.
        """
        if self.normalization is None and given == "auto":
            raise CheckpointError(
                f"{path}: does not say how the pixels of its training were normalized, and its weights do not show it: "
                "set model.normalization (imagenet for a UNPG network that was saved as a state_dict)"
            )
        if given not in ("auto", self.normalization) and self.normalization is not None:
            raise CheckpointError(
                f"{path}: was trained with pixel normalization {self.normalization}, but model.normalization is {given}"
            )
        return given if self.normalization is None else self.normalization
