"""Throughput of DiscoFaceGAN at its published size (256 pixels, 26 million weights), with random weights.

    python benchmarks/discofacegan.py --images 16 --batch-size 8 --repeats 3
    python benchmarks/discofacegan.py --pickle              # also: reading a full-size network pickle

Variants, from coefficients to uint8 images, median and range over the repeats, in wall and CPU seconds:
- float32: `DiscoFaceGAN.synthesize`;
- channels_last, bfloat16: the same in that memory format, and with bfloat16 convolutions besides;
- plain: the published definitions one by one (nearest upscaling, convolution, blur, noise, bias, norm, style), eager.
"""

from __future__ import annotations

import argparse
import functools
import pickle
import platform
import sys
import tempfile
import time
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facelib.synthesis.discofacegan import DiscoFaceGAN, NetworkTables, read_network_pickle
from facelib.synthesis.discofacegan.topology import Topology
from facelib.utils.devices import resolve_device


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    networks = random_networks(arguments.resolution)
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(arguments.images, 286)).astype(np.float32)
    average = np.zeros(512, np.float32)
    settings: dict[str, Any] = {"batch_size": arguments.batch_size, "device": device.type}
    ways: dict[str, Callable[[], np.ndarray]] = {}
    options: dict[str, dict[str, Any]] = {
        "float32": {},
        "channels_last": {"channels_last": True},
        "bfloat16": {"channels_last": True, "bfloat16": True},
    }
    for name, chosen in options.items():
        generator = DiscoFaceGAN(networks, average, **chosen, **settings)
        ways[name] = functools.partial(generator.synthesize, coefficients)
    few = coefficients[: min(len(coefficients), arguments.batch_size)]
    ways["plain"] = lambda: _plain(networks, average, few, device)

    print(f"{platform.processor() or platform.machine()}, PyTorch {torch.__version__}, {arguments.threads} threads")
    print(f"{arguments.resolution} pixels, batches of {arguments.batch_size}, device {device.type}")
    images = {name: _measure(name, way, arguments.repeats) for name, way in ways.items()}
    for name in ("channels_last", "bfloat16", "plain"):
        count = len(images[name])
        difference = np.abs(images["float32"][:count].astype(int) - images[name])
        print(
            f"{name} against float32: at most {difference.max()} of 255, {(difference > 0).mean():.3%} of bytes differ"
        )
    if arguments.pickle:
        _measure_pickle(networks)


def _measure(name: str, way: Callable[[], np.ndarray], repeats: int) -> np.ndarray:
    images = way()  # compiles
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        images = way()
        wall.append(len(images) / (time.perf_counter() - start))
        cpu.append((time.process_time() - start_cpu) / len(images))
    print(
        f"{name}: {np.median(wall):.2f} images/s ({min(wall):.2f} to {max(wall):.2f}), "
        f"{np.median(cpu):.3f} CPU seconds an image"
    )
    return images


def random_networks(resolution: int) -> NetworkTables:
    """Tables of Gs with random weights of the published topology."""
    rng = np.random.default_rng(1)
    variables: dict[str, Any] = {}
    for name, shape in Topology(resolution).variables().items():
        # Mapping weights are stored divided by their learning rate multiplier of 0.01.
        scale = 100 if name.startswith("G_mapping") else 0.3 if name.endswith(("bias", "Noise/weight")) else 1
        variables[name] = rng.normal(scale=scale, size=shape).astype(np.float32) if shape else np.float32(0)
    settings = {"num_channels": 3, "label_size": 0, "resolution": resolution}
    return NetworkTables("Gs", 3, settings, variables)


@torch.inference_mode()
def _plain(networks: NetworkTables, average: np.ndarray, coefficients: np.ndarray, device: torch.device) -> np.ndarray:
    """The definitions, a line each."""
    topology = networks.topology
    tables = {name: torch.from_numpy(np.array(value)).to(device) for name, value in networks.variables.items()}

    def mapping(x: Tensor) -> Tensor:
        for layer in range(8):
            weight, bias = (tables[f"G_mapping/Dense{layer}/{part}"] for part in ("weight", "bias"))
            x = F.leaky_relu(x @ (weight * (np.sqrt(2 / len(weight)) * 0.01)) + bias * 0.01, 0.2)
        return x

    def scaled(weight: Tensor, gain: float) -> Tensor:
        return weight.permute(3, 2, 0, 1) * float(gain / np.sqrt(np.prod(weight.shape[:3])))

    def up(x: Tensor, weight: Tensor, side: int) -> Tensor:
        kernel = scaled(weight, np.sqrt(2))
        if side < 128:
            x = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), kernel, padding=1)
        else:
            padded = F.pad(kernel, (1, 1, 1, 1)).transpose(0, 1)
            four = padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]
            x = F.conv_transpose2d(x, four, stride=2, padding=1)
        blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], device=device) / 16
        return F.conv2d(x, blur.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])

    given = torch.from_numpy(coefficients).to(device)
    w = mapping(given)
    identity = torch.cat([given[:, :160], torch.zeros(len(given), 126, device=device)], dim=1)
    truncated = w + (torch.from_numpy(average).to(device) - mapping(identity)) * 0.3
    x = tables["G_synthesis/4x4/Const/const"].expand(len(given), -1, -1, -1)
    for layer, name in enumerate(topology.layer_names()):
        prefix = f"G_synthesis/{name}/"
        if layer > 1 and layer % 2 == 0:
            x = up(x, tables[prefix + "weight"], 2 ** (layer // 2 + 2))
        elif layer > 0:
            x = F.conv2d(x, scaled(tables[prefix + "weight"], np.sqrt(2)), padding=1)
        noise = tables[f"G_synthesis/noise{layer}"] * tables[prefix + "Noise/weight"][:, None, None]
        x = F.leaky_relu(x + noise + tables[prefix + "bias"][:, None, None], 0.2)
        x = x - x.mean((2, 3), keepdim=True)
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-8)
        style = (truncated if layer < 8 else w) @ (tables[prefix + "StyleMod/weight"] / float(np.sqrt(512)))
        scale, shift = (style + tables[prefix + "StyleMod/bias"])[:, :, None, None].chunk(2, dim=1)
        x = x * (scale + 1) + shift
    to_rgb = scaled(tables["G_synthesis/ToRGB_lod0/weight"], 1)
    raw = F.conv2d(x, to_rgb, tables["G_synthesis/ToRGB_lod0/bias"])
    return ((raw + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def _measure_pickle(networks: NetworkTables) -> None:
    """Time and memory of reading (G, D, Gs) at full size; D is replaced by as many values."""
    module = types.ModuleType("dnnlib.tflib.network")
    network = type("Network", (), {"__module__": module.__name__})
    module.Network = network  # type: ignore[attr-defined]
    names = ("dnnlib", "dnnlib.tflib", module.__name__)
    sys.modules.update({name: module if name == names[-1] else types.ModuleType(name) for name in names})

    def make(name: str, variables: dict[str, np.ndarray], components: dict[str, Any]) -> Any:
        made = network()
        made.__dict__.update(
            version=3,
            name=name,
            static_kwargs=dict(networks.static_kwargs),
            components=components,
            build_module_src="",
            build_func_name="",
            variables=[(n, np.array(v)) for n, v in variables.items()],
        )
        return made

    def generator(name: str) -> Any:
        parts = {
            part: make(
                f"G_{part}",
                {n.split("/", 1)[1]: v for n, v in networks.variables.items() if n.startswith(f"G_{part}/")},
                {},
            )
            for part in ("synthesis", "mapping")
        }
        own = {n: v for n, v in networks.variables.items() if "/" not in n}
        return make(name, own, parts)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pkl"
        networks_of_file = (generator("G"), make("D", networks.variables, {}), generator("Gs"))
        with path.open("wb") as file:
            pickle.dump(networks_of_file, file, 4)
        del networks_of_file
        start = time.perf_counter()
        read_network_pickle(path)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        read_network_pickle(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = path.stat().st_size
    for name in names:
        del sys.modules[name]
    print(f"pickle of {size / 1e6:.0f} MB: read in {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=256, help="pixels, a power of two")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of PyTorch")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--pickle", action="store_true", help="measure reading a full-size pickle too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
