"""Backbones by name: a class with preset settings that the caller's settings override."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from facelib.utils.registry import Factory, Registry

IRESNETS = ("iresnet", *(f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)), "iresnet10-narrow", "iresnet18-narrow")

_REGISTRY = Registry(
    "backbone",
    "facelib.backbones",
    {
        **dict.fromkeys(IRESNETS, "facelib.models.iresnet"),
        **dict.fromkeys(("mobilefacenet", "mbf", "mbf-large"), "facelib.models.mobilefacenet"),
        **dict.fromkeys(("vit-t", "vit-s", "vit-b", "vit-l"), "facelib.models.vit"),
    },
)


def register_backbone(name: str, /, **preset: Any) -> Callable[[Factory], Factory]:
    """Decorate a module class so that `build_backbone(name, **settings)` builds it with `{**preset, **settings}`.

    The class takes at least `embedding_size` and `dropout`. A separate package names it in the entry-point group
    `facelib.backbones` instead.

    Raises:
        ValueError: another class already has the name.
    """
    return _REGISTRY.register(name, **preset)


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
            `activation` ("prelu" or "relu"), `stride_first`, `weight_init` and `train_scale`; see `IResNet`.

    Raises:
        ValueError: unknown name or setting (the message lists what exists), a missing setting (`layers` of "iresnet"),
            or a value out of range.
    """
    if use_se or "use_se" in inspect.signature(_REGISTRY.find(name)).parameters:
        settings["use_se"] = use_se
    return cast(nn.Module, _REGISTRY.build(name, embedding_size=embedding_size, dropout=dropout, **settings))


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are built in the block have shapes and no values: they are on the meta device."""
    with torch.device("meta"), _NoInitialization():
        yield


class _NoInitialization(TorchFunctionMode):
    """Draws no normal distribution: on the meta device that imports PyTorch's compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]
        if func is nn.init.normal_:  # It passes its arguments by name, and what it calls does not come here.
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def backbone_names() -> list[str]:
    """Every name that `build_backbone` knows, sorted."""
    return _REGISTRY.names()
