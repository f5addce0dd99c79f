"""MobileStyleGAN's weights: where they are found, and the tables that the networks run on.

They are two OpenVINO IRs, `MappingNetwork.{xml,bin}` and `SynthesisNetwork.{xml,bin}`, inside the wheel `random-face`.
The wheel is a container only: it is located, never imported, and its own requirements are not needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facelib.data import DatasetError, Folder
from facelib.synthesis.mobilestylegan.openvino_ir import Graph

Floats = npt.NDArray[np.float32]

PACKAGE = "random_face"
INSTALL = "pip install --no-deps random-face==2021.7.21.1"
FILES = ("MappingNetwork.xml", "MappingNetwork.bin", "SynthesisNetwork.xml", "SynthesisNetwork.bin")
LICENSE = (
    "non-commercial: MobileStyleGAN weights Apache-2.0 (random-face), distilled from StyleGAN2 "
    "(NVIDIA, non-commercial) trained on FFHQ (CC BY-NC-SA 4.0)"
)
RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512)  # of layers 0 to 6; the image is twice the last
MAPPING_LAYERS = 8
STYLE = 512
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Weights:
    """All constants of both networks.

    Attributes:
        tables: float32 arrays by name, see `mapping_tables` and `synthesis_tables`.
        sha256: of the files they were read from.
    """

    tables: dict[str, Floats]
    sha256: str


def weights_folder(folder: str | None = None) -> str:
    """The folder or URI that holds the weights: the given one, or that of the installed wheel.

    Raises:
        FileNotFoundError: the wheel is not installed; the message says how to install it.
    """
    if folder:
        return folder
    found = importlib.util.find_spec(PACKAGE)  # of a top-level package: located, not imported
    for place in (found.submodule_search_locations if found else None) or ():
        if (Path(place) / "data" / FILES[0]).is_file():
            return str(Path(place) / "data")
    raise FileNotFoundError(
        f"MobileStyleGAN's weights are missing: {INSTALL} (37 MB; never imported, so without its requirements), "
        f"or name a folder that holds {', '.join(FILES)}. License: {LICENSE}"
    )


def read_files(folder: str | None = None) -> dict[str, bytes]:
    """The four files by name.

    Args:
        folder: path or URI of the folder that holds them; None takes them from the installed wheel.

    Raises:
        FileNotFoundError: a file is missing; the message says where it comes from.
    """
    source = Folder(weights_folder(folder))
    files = {}
    for name in FILES:
        try:
            files[name] = source.read(name)
        except DatasetError as error:
            raise FileNotFoundError(
                f"{error}. MobileStyleGAN's weights are {', '.join(FILES)}; they come with: {INSTALL}"
            ) from None
    return files


def files_sha256(files: dict[str, bytes]) -> str:
    """SHA-256 of the files' names and contents, hexadecimal."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def load_weights(folder: str | None = None) -> Weights:
    """Both networks' constants.

    Args:
        folder: see `read_files`.

    Raises:
        FileNotFoundError: the files are missing.
        ValueError: a file is damaged or holds another network.
    """
    files = read_files(folder)
    for name, data in files.items():
        if len(data) > _MAX_BYTES:
            raise ValueError(f"{name}: {len(data)} bytes, at most {_MAX_BYTES} are read")
    mapping = Graph(files["MappingNetwork.xml"], files["MappingNetwork.bin"], "MappingNetwork.xml")
    synthesis = Graph(files["SynthesisNetwork.xml"], files["SynthesisNetwork.bin"], "SynthesisNetwork.xml")
    return Weights({**mapping_tables(mapping), **synthesis_tables(synthesis)}, files_sha256(files))


def mapping_tables(graph: Graph) -> dict[str, Floats]:
    """`mapping.<i>.weight` [512, 512] (out, in) and `mapping.<i>.bias` [512] of 8 layers.

    The gain after each activation is folded into the next layer, the last one's is `mapping.gain`.
    """
    tables: dict[str, Floats] = {}
    gain = np.float32(1)
    matmuls = [number for number, node in graph.nodes.items() if node.kind == "MatMul"]
    if len(matmuls) != MAPPING_LAYERS:
        raise ValueError(f"{graph.name}: {len(matmuls)} layers, expected {MAPPING_LAYERS}")
    for i, matmul in enumerate(matmuls):
        add = graph.user(matmul, "Add")
        tables[f"mapping.{i}.weight"] = _take(graph, graph.input(matmul, "Const"), (STYLE, STYLE)) * gain
        tables[f"mapping.{i}.bias"] = _take(graph, graph.input(graph.input(add, "Reshape"), "Const"), (STYLE,))
        activation = graph.user(add, "PReLU")
        _check_slope(graph, activation)
        gain = _scalar(graph, graph.input(graph.user(activation, "Multiply"), "Const"))
    tables["mapping.gain"] = np.asarray(gain, np.float32)
    return tables


def synthesis_tables(graph: Graph) -> dict[str, Floats]:
    """Constants of the synthesis network.

    `input` [512, 4, 4]; for `conv1` and each `layers.<i>.{conv1,conv2}`: `.style.weight` [C, 512], `.style.bias` [C],
    `.depthwise` [C, 1, 3, 3] (not for `conv1`), `.weight` [out, C, k, k], `.noise` [R, R], `.bias` [out]; for
    `layers.<i>.up`: `.style.*`; for `to_img`: `.style.*`, `.weight` and `.bias`.
    """
    tables = {"input": _take(graph, graph.id_of("m.input.input"), None)[0]}
    tables |= _convolution(graph, "m.conv1", "conv1", 4)
    for i, size in enumerate(RESOLUTIONS):
        tables |= _style(graph, f"m.layers.{i}.up", f"layers.{i}.up")
        for part in ("conv1", "conv2"):
            tables |= _convolution(graph, f"m.layers.{i}.{part}", f"layers.{i}.{part}", size)
    last = f"m.layers.{len(RESOLUTIONS) - 1}.to_img"
    tables |= _style(graph, f"{last}.conv", "to_img")
    tables["to_img.weight"] = _take(graph, graph.id_of(f"{last}.conv.weight"), None)
    tables["to_img.bias"] = _take(graph, graph.id_of(f"{last}.bias"), None).reshape(-1)
    return tables


def _convolution(graph: Graph, name: str, key: str, size: int) -> dict[str, Floats]:
    """style → (depthwise) → pointwise (or 3 × 3) → noise → bias → leaky ReLU."""
    bias = graph.id_of(f"{name}.bias")
    add_bias = graph.user(bias, "Add")
    _check_slope(graph, graph.user(add_bias, "PReLU"))
    add_noise = graph.input(add_bias, "Add")
    convolution = graph.input(add_noise, "Convolution")
    tables = _style(graph, f"{name}.conv", key)
    tables[f"{key}.weight"] = _take(graph, graph.input(convolution, "Const"), None)
    tables[f"{key}.noise"] = _take(graph, graph.input(add_noise, "Const"), (1, 1, size, size))[0, 0]
    tables[f"{key}.bias"] = _take(graph, bias, None).reshape(-1)
    if any(graph.nodes[source].kind == "GroupConvolution" for source in graph.nodes[convolution].inputs):
        depthwise = _take(graph, graph.id_of(f"{name}.conv.weight_dw"), None)
        tables[f"{key}.depthwise"] = depthwise.reshape(-1, 1, 3, 3)
    return tables


def _style(graph: Graph, name: str, key: str) -> dict[str, Floats]:
    """The affine map from w to a scale for each channel, with the convolution's own scale folded in."""
    weight = graph.id_of(f"{name}.modulation.weight")
    add = graph.user(graph.user(weight, "MatMul"), "Add")
    scale = np.float32(1)
    times = graph.user(graph.user(add, "Reshape"), "Multiply")
    if any(graph.nodes[source].kind == "Const" for source in graph.nodes[times].inputs):
        scale = _scalar(graph, graph.input(times, "Const"))
    bias = _take(graph, graph.id_of(f"{name}.modulation.bias"), None).reshape(-1)
    return {
        f"{key}.style.weight": _take(graph, weight, (bias.size, STYLE)) * scale,
        f"{key}.style.bias": bias * scale,
    }


def _take(graph: Graph, node: str, shape: tuple[int, ...] | None) -> Floats:
    value = graph.constant(node)
    if value.dtype != np.float32 or (shape is not None and value.shape != shape) or not np.isfinite(value).all():
        raise ValueError(
            f"{graph.name}: {graph.nodes[node].name!r} is {value.dtype} {list(value.shape)}, expected finite float32 "
            f"{'' if shape is None else list(shape)}"
        )
    return value


def _scalar(graph: Graph, node: str) -> np.float32:
    value = _take(graph, node, None)
    if value.size != 1:
        raise ValueError(f"{graph.name}: {graph.nodes[node].name!r} has shape {list(value.shape)}, expected one number")
    return np.float32(value.reshape(-1)[0])


def _check_slope(graph: Graph, activation: str) -> None:
    slope = _scalar(graph, graph.input(activation, "Const"))
    if abs(float(slope) - 0.2) > 1e-6:
        raise ValueError(f"{graph.name}: {graph.nodes[activation].name!r} has slope {slope}, expected 0.2")
