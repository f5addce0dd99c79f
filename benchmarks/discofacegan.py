"""Throughput of DiscoFaceGAN at its published size (256 pixels, 26 million weights), with random weights.

    python benchmarks/discofacegan.py --images 16 --batch-size 8 --repeats 3
    python benchmarks/discofacegan.py --pickle              # also: reading a full-size network pickle

Variants, from coefficients to uint8 images, median and range over the repeats, in wall and CPU seconds:
- float32: `DiscoFaceGAN.synthesize`;
- bfloat16: the same with bfloat16 convolutions;
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
from facelib.utils.tensorflow import import_tensorflow

from facelib.synthesis.discofacegan import DiscoFaceGAN, NetworkTables, read_network_pickle
from facelib.synthesis.discofacegan.topology import Topology


def main() -> None:
    arguments = _arguments()
    tf = import_tensorflow(arguments.threads)
    networks = random_networks(arguments.resolution)
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(arguments.images, 286)).astype(np.float32)
    average = np.zeros(512, np.float32)
    settings = {"batch_size": arguments.batch_size, "threads": arguments.threads, "device": arguments.device}
    ways: dict[str, Callable[[], np.ndarray]] = {}
    for name, bfloat16 in (("float32", False), ("bfloat16", True)):
        generator = DiscoFaceGAN(networks, average, bfloat16=bfloat16, **settings)
        ways[name] = functools.partial(generator.synthesize, coefficients)
    few = coefficients[: min(len(coefficients), arguments.batch_size)]
    ways["plain"] = lambda: _plain(tf, networks, average, few)

    print(f"{platform.processor() or platform.machine()}, TensorFlow {tf.__version__}, {arguments.threads} threads")
    print(f"{arguments.resolution} pixels, batches of {arguments.batch_size}, device {arguments.device}")
    images = {name: _measure(name, way, arguments.repeats) for name, way in ways.items()}
    for name in ("bfloat16", "plain"):
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


def _plain(tf: Any, networks: NetworkTables, average: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The definitions, a line each."""
    topology, tables = networks.topology, networks.variables

    def mapping(x: Any) -> Any:
        for layer in range(8):
            weight, bias = (tables[f"G_mapping/Dense{layer}/{part}"] for part in ("weight", "bias"))
            x = tf.nn.leaky_relu(tf.matmul(x, weight * np.float32(np.sqrt(2 / len(weight)) * 0.01)) + bias * 0.01, 0.2)
        return x

    def convolve(x: Any, weight: np.ndarray, gain: float) -> Any:
        return tf.nn.conv2d(x, weight * np.float32(gain / np.sqrt(np.prod(weight.shape[:3]))), 1, "SAME")

    def up(x: Any, weight: np.ndarray, side: int) -> Any:
        if side < 128:
            x = convolve(tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2), weight, np.sqrt(2))
        else:
            padded = np.pad(weight, [(1, 1), (1, 1), (0, 0), (0, 0)]).transpose(0, 1, 3, 2)
            four = padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]
            four = four * np.float32(np.sqrt(2 / np.prod(weight.shape[:3])))
            x = tf.nn.conv2d_transpose(x, four, [len(x), side, side, four.shape[2]], 2, "SAME")
        blur = np.outer([1, 2, 1], [1, 2, 1])[:, :, None, None].astype(np.float32) / 16
        return tf.nn.depthwise_conv2d(x, np.tile(blur, (1, 1, x.shape[3], 1)), [1, 1, 1, 1], "SAME")

    w = mapping(coefficients)
    identity = np.concatenate([coefficients[:, :160], np.zeros((len(coefficients), 126), np.float32)], axis=1)
    truncated = w + (average - mapping(identity)) * 0.3
    x = None
    for layer, name in enumerate(topology.layer_names()):
        prefix = f"G_synthesis/{name}/"
        if layer == 0:
            x = tf.tile(tables[prefix + "const"].transpose(0, 2, 3, 1), [len(coefficients), 1, 1, 1])
        elif layer > 1 and layer % 2 == 0:
            x = up(x, tables[prefix + "weight"], 2 ** (layer // 2 + 2))
        else:
            x = convolve(x, tables[prefix + "weight"], np.sqrt(2))
        noise = tables[f"G_synthesis/noise{layer}"].transpose(0, 2, 3, 1)
        x = tf.nn.leaky_relu(x + noise * tables[prefix + "Noise/weight"] + tables[prefix + "bias"], 0.2)
        x = x - tf.reduce_mean(x, [1, 2], keepdims=True)
        x = x * tf.math.rsqrt(tf.reduce_mean(x * x, [1, 2], keepdims=True) + 1e-8)
        style = tf.matmul(truncated if layer < 8 else w, tables[prefix + "StyleMod/weight"] / np.float32(np.sqrt(512)))
        scale, shift = tf.split((style + tables[prefix + "StyleMod/bias"])[:, None, None], 2, axis=3)
        x = x * (scale + 1) + shift
    raw = convolve(x, tables["G_synthesis/ToRGB_lod0/weight"], 1) + tables["G_synthesis/ToRGB_lod0/bias"]
    return tf.cast(tf.clip_by_value((raw + 1) * 127.5, 0, 255), tf.uint8).numpy()


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
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of TensorFlow")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--pickle", action="store_true", help="measure reading a full-size pickle too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
