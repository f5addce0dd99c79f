"""Backbones by name. A name is a class with preset settings; what the caller passes wins over the preset."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from facelib.models.iresnet import IResNet
from facelib.models.mobilefacenet import MobileFaceNet

# For training on a few CPU cores: half the channels, on maps of half the side.
NARROW: Mapping[str, Any] = {"width": 0.5, "stem_stride": 2, "stride_first": True, "activation": "relu"}

BACKBONES: Mapping[str, tuple[Callable[..., nn.Module], Mapping[str, Any]]] = {
    "iresnet18": (IResNet, {"layers": (2, 2, 2, 2)}),
    "iresnet34": (IResNet, {"layers": (3, 4, 6, 3)}),
    "iresnet50": (IResNet, {"layers": (3, 4, 14, 3)}),
    "iresnet100": (IResNet, {"layers": (3, 13, 30, 3)}),
    "iresnet200": (IResNet, {"layers": (6, 26, 60, 6)}),
    "iresnet10-narrow": (IResNet, {"layers": (1, 1, 1, 1), **NARROW}),
    "iresnet18-narrow": (IResNet, {"layers": (2, 2, 2, 2), **NARROW}),
    "iresnet": (IResNet, {}),  # any depth: give layers
    "mobilefacenet": (MobileFaceNet, {}),
}


def build_backbone(
    name: str, embedding_size: int = 512, dropout: float = 0.0, use_se: bool = False, **settings: Any
) -> nn.Module:
    """A network from float images [N, 3, H, W] in [-1, 1] to embeddings float32 [N, D], not normalized.

    Args:
        name: one of `backbone_names()`.
        embedding_size: D.
        dropout: probability of zeroing an input of the last linear layer, in [0, 1).
        use_se: squeeze-and-excitation in every block (IResNets only).
        settings: further settings of that network: `image_size` (side in pixels, a multiple of 16), `width`
            (multiplies the channels), and for IResNets `layers` (blocks of the four stages), `stem_stride` (1 or 2),
            `activation` ("prelu" or "relu") and `stride_first`; see `IResNet`.

    Raises:
        ValueError: unknown name or setting (the message lists what exists), or a value out of range.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone = {name!r} does not exist; choose one of {', '.join(backbone_names())}")
    network, preset = BACKBONES[name]
    known = list(inspect.signature(network).parameters)
    given = {"embedding_size": embedding_size, "dropout": dropout, **settings}
    if use_se or "use_se" in known:
        given["use_se"] = use_se
    unknown = [setting for setting in given if setting not in known]
    if unknown:
        raise ValueError(
            f"backbone {name!r} has no setting {', '.join(map(repr, unknown))}; its settings are {', '.join(known)}"
        )
    if name == "iresnet" and "layers" not in settings:
        raise ValueError("backbone 'iresnet' needs layers, the number of blocks of its four stages, e.g. [2, 2, 2, 2]")
    return network(**{**preset, **given})


def backbone_names() -> list[str]:
    """Every name that `build_backbone` knows."""
    return list(BACKBONES)
