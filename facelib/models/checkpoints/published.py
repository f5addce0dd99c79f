"""Checkpoints of other codebases: which network is in them, under which names, and what pixels it expects.

| format | file | network |
|---|---|---|
| usynthface | state_dict of MoCo | IResNet `encoder_q.*` |
| unpg | the whole module, pickled under `backbone` | IResNet, ImageNet's pixels |
| magface | `state_dict` | IResNet `features.module.*` or `module.features.*`, BGR pixels in [0, 1] |
| arcface_torch | state_dict, or one under `state_dict_backbone` | IResNet, MobileFaceNet, ViT |

Wrappers leave prefixes (`module.` DataParallel, `_orig_mod.` torch.compile, `backbone.` Lightning and others): the
network is what shares the prefix of the first layer of a known architecture. The architecture is read off the names
and shapes.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from facelib.models.checkpoints.checkpoint import BackboneCheckpoint, CheckpointError
from facelib.models.checkpoints.torch_archive import InertObject, module_state_dict
from facelib.models.iresnet import REDUCTION, STAGE_CHANNELS
from facelib.models.pixels import SYMMETRIC

# Prefixes of a network and of its running average, which are in one file: MoCo and USynthFace, lightly.
MOMENTUM_PAIRS = (("encoder_q.", "encoder_k."), ("backbone.", "backbone_momentum."))
MAGFACE_EPS = 2e-5  # of BatchNorm
IRESNET_PARAMETERS = (  # that show its architecture
    "conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight", "features.weight",
)  # fmt: skip

State = dict[str, Tensor]


class Architecture(NamedTuple):
    """A network of other codebases.

    Attributes:
        name: of `build_backbone`.
        anchors: two parameters that only this network has under one prefix, the first layer's first.
        read: state_dict without prefix -> settings of `build_backbone`, and the state_dict with the names used here.
    """

    name: str
    anchors: tuple[str, str]
    read: Callable[[State], tuple[dict[str, Any], State]]


def read_published(path: str, content: Mapping[Any, Any]) -> BackboneCheckpoint:
    """The backbone of another codebase's checkpoint.

    Args:
        path: for messages.
        content: the file's dictionary; pickled modules in it are `InertObject`s.

    Raises:
        CheckpointError: no known network, or several.
    """
    found = [entry for state in state_dicts(content) for entry in _networks(state)]
    averages = {prefix.replace(*pair) for prefix, *_ in found for pair in MOMENTUM_PAIRS if pair[0] in prefix}
    found = [entry for entry in found if entry[0] not in averages]
    if not found:
        raise CheckpointError(f"{path}: {_explain_unknown(content)}")
    if len(found) > 1:
        prefixes = ", ".join(prefix or "(none)" for prefix, *_ in found)
        raise CheckpointError(f"{path}: several networks, under the prefixes {prefixes}: save the one that is wanted")
    prefix, architecture, state = found[0]
    try:
        settings, state = architecture.read(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    file_format, normalization = _provenance(content, prefix, architecture, state)
    if file_format == "magface":
        settings["eps"] = MAGFACE_EPS
    return BackboneCheckpoint(file_format, architecture.name, settings, state, None, normalization)


def state_dicts(content: Mapping[Any, Any], depth: int = 0) -> Iterator[State]:
    """Every dictionary of tensors in a file, and the tensors of a pickled backbone."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield tensors
    if isinstance(content.get("backbone"), InertObject):
        yield module_state_dict(content["backbone"])
    for value in content.values():
        if isinstance(value, Mapping) and depth < 2:
            yield from state_dicts(value, depth + 1)


def _explain_unknown(content: Mapping[Any, Any]) -> str:
    known = "known formats: facelib, USynthFace .pth, UNPG .pt, MagFace .pth, arcface_torch .pth and .pt, .safetensors"
    names = max((list(state) for state in state_dicts(content)), key=len, default=[])
    if not names:
        return f"no tensors found under {sorted(map(str, content))[:8]}; {known}"
    first = [name for name in IRESNET_PARAMETERS if name not in names]
    return (
        f"no IResNet, parameters {', '.join(first)} are missing, nor a MobileFaceNet or ViT; found "
        f"{', '.join(names[:6])} ...; {known}"
    )


def _networks(state: State) -> Iterator[tuple[str, Architecture, State]]:
    """(prefix, architecture, state_dict without it) of every known network in a state_dict."""
    for architecture in ARCHITECTURES:
        first, second = architecture.anchors
        for name in state:
            prefix = name.removesuffix(first)
            if name == prefix + first and prefix + second in state:
                inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                yield prefix, architecture, inner


def _provenance(
    content: Mapping[Any, Any], prefix: str, architecture: Architecture, state: State
) -> tuple[str, str | None]:
    """The format, and the normalization of the pixels that the network was trained on."""
    if isinstance(content.get("backbone"), InertObject):
        return "unpg", "imagenet"
    if "encoder_q." in prefix:
        return "usynthface", SYMMETRIC
    if prefix.startswith(("features.module.", "module.features.")):
        return "magface", "unit_bgr"
    if architecture.name != "iresnet":
        return "arcface_torch", SYMMETRIC
    # arcface_torch keeps the last scale at one. A network that trained it comes from elsewhere: UNPG, perhaps.
    frozen = bool((state["features.weight"] == 1).all())
    return "arcface_torch", SYMMETRIC if frozen else None


def _read_iresnet(state: State) -> tuple[dict[str, Any], State]:
    absent = [name for name in IRESNET_PARAMETERS if name not in state]
    if absent:
        raise CheckpointError(
            f"no IResNet, parameters {', '.join(absent)} are missing; found {', '.join(list(state)[:6])} ..."
        )
    blocks = [re.match(r"layer([1-4])\.(\d+)\.", name) for name in state]
    layers = [
        max((int(found[2]) + 1 for found in blocks if found and found[1] == stage), default=0) for stage in "1234"
    ]
    width = state["conv1.weight"].shape[0] / STAGE_CHANNELS[0]
    embedding_size, inputs = state["fc.weight"].shape
    side = math.isqrt(inputs // max(1, state["layer4.0.conv1.weight"].shape[0]))
    use_se = any(".se_block." in name for name in state)
    if 0 in layers or side == 0 or state["conv1.weight"].shape[0] < (REDUCTION if use_se else 1):
        raise CheckpointError(f"no IResNet has layers {layers} and a last layer of {inputs} inputs")
    settings: dict[str, Any] = {"embedding_size": int(embedding_size), "use_se": use_se, "layers": layers}
    if width != 1:
        settings["width"] = width
    if side != 7:
        settings["image_size"] = 16 * side
    return settings, state


def _read_mobilefacenet(state: State) -> tuple[dict[str, Any], State]:
    """arcface_torch's MobileFaceNet: eight layers, each a unit, a bottleneck or a list of bottlenecks."""
    listed = [len({name.split(".")[3] for name in state if name.startswith(f"layers.{n}.layers.")}) for n in range(8)]
    single = "layers.1.layers.0.weight" in state
    blocks = [1 if single else listed[1], listed[3], listed[5], listed[7]]
    absent = [name for name in ("layers.7.layers.0.layers.0.layers.0.weight", "features.layers.2.weight")
              if name not in state]  # fmt: skip
    if absent:
        raise CheckpointError(f"no MobileFaceNet of arcface_torch: parameters {', '.join(absent)} are missing")
    bottlenecks = [] if single else [f"layers.1.layers.{number}" for number in range(blocks[0])]
    for layer, count in ((2, blocks[1]), (4, blocks[2]), (6, blocks[3])):
        bottlenecks += [f"layers.{layer}", *(f"layers.{layer + 1}.layers.{number}" for number in range(count))]
    units = {"layers.0": "stem.0", "conv_sep": "expand", "features.layers.0": "pool"}
    if single:
        units["layers.1"] = "stem.1"
    for number, theirs in enumerate(bottlenecks):
        for index, ours in enumerate(("expand", "depthwise", "project")):
            units[f"{theirs}.layers.{index}"] = f"blocks.{number}.{ours}"
    modules = {"features.layers.2": "fc", "features.layers.3": "features"}
    for theirs, ours in units.items():
        modules |= {f"{theirs}.layers.{index}": f"{ours}.{part}" for index, part in enumerate(("conv", "bn", "prelu"))}
    renamed = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        renamed[f"{modules.get(module, module)}.{parameter}"] = value
    settings = {
        "embedding_size": int(state["features.layers.2.weight"].shape[0]),
        "scale": state["layers.0.layers.0.weight"].shape[0] // 64,
        "blocks": blocks,
    }
    return settings, renamed


def _read_vit(state: State) -> tuple[dict[str, Any], State]:
    """arcface_torch's ViT of any width and depth; the number of heads does not show, all of them have eight."""
    absent = [name for name in ("pos_embed", "feature.2.weight") if name not in state]
    if absent:
        raise CheckpointError(f"no ViT of arcface_torch: parameters {', '.join(absent)} are missing")
    width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    blocks = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    side = math.isqrt(state["pos_embed"].shape[1]) * patch_size
    settings: dict[str, Any] = {
        "embedding_size": int(state["feature.2.weight"].shape[0]),
        "width": int(width),
        "depth": len(blocks),
        "patch_size": int(patch_size),
    }
    if 112 // patch_size * patch_size != side:
        settings["image_size"] = -(-side // 16) * 16
    return settings, state


ARCHITECTURES = (
    Architecture("iresnet", ("conv1.weight", "layer1.0.conv1.weight"), _read_iresnet),
    Architecture("mobilefacenet", ("layers.0.layers.0.weight", "conv_sep.layers.0.weight"), _read_mobilefacenet),
    Architecture("vit-s", ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), _read_vit),
)
