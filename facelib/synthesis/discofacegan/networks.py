"""DiscoFaceGAN's mapping and synthesis networks (Deng et al., CVPR 2020, on StyleGAN) in TensorFlow 2, inference only.

Same arithmetic as the published graph, in another order where that is exact or within float32's rounding:
- every step up in resolution is one transposed convolution. Below 128 pixels the network was trained with nearest
  upscaling and a convolution, which is the transposed convolution of the kernel flipped in both axes; from 128 on with
  the unflipped kernel. Mixing these up gives wrong images and no error.
- stored noise and bias become one table a layer; instance norm and style one multiplication and one addition.
The blur stays apart: folded into the kernel it would differ at the borders.

Shapes: N batch, W width of a style vector, L styled layers, R resolution, C channels; NHWC throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.synthesis.discofacegan.network_pickle import NetworkTables
from facelib.synthesis.discofacegan.topology import COEFFICIENT_SIZES, COEFFICIENTS, TRUNCATED_LAYERS, Topology
from facelib.utils.tensorflow import device_name, import_tensorflow

Floats = npt.NDArray[np.float32]
_LEAK, _NORM_EPSILON = 0.2, 1e-8


class DiscoFaceGAN:
    """The generator Gs: face-model coefficients to images.

    Args:
        networks: tables of Gs, from `read_network_pickle`.
        average_w_id: the mean style vector of identities, [W] or [L, W] (the rows of `*-average_w_id.txt`).
        batch_size: images in one pass. The last pass is filled up to it, so that an image does not depend on how many
            others are asked for; give few at a time only with a small batch size.
        bfloat16: convolve in bfloat16: about twice as fast on CPUs that have it, not equal to float32 byte for byte.
        device: `auto` (CUDA when TensorFlow sees it, else CPU), `cpu` or `cuda`.
        threads: CPU threads of TensorFlow. It can be set once a process only, before TensorFlow's first operation.

    Raises:
        ImportError: TensorFlow is missing.
        ValueError: average_w_id has the wrong shape or is not finite, or a setting is out of range.
    """

    def __init__(
        self,
        networks: NetworkTables,
        average_w_id: npt.ArrayLike,
        *,
        batch_size: int = 8,
        bfloat16: bool = False,
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        if not 1 <= batch_size <= 4096:
            raise ValueError(f"batch_size is {batch_size}, expected 1 to 4096")
        self.topology = networks.topology
        average = check_average(average_w_id, self.topology)
        self.batch_size = batch_size
        self._tf = tf = import_tensorflow(threads)
        self._device = device_name(tf, device)
        self._type = tf.bfloat16 if bfloat16 else tf.float32
        self._lod = float(networks.variables["G_synthesis/lod"])
        with tf.device(self._device):
            self._average = tf.constant(np.broadcast_to(average, (self.topology.layers, self.topology.dlatent_size)))
            self._mapping = _mapping_tables(tf, networks, self.topology)
            self._layers, self._to_rgb = _synthesis_tables(tf, networks, self.topology, self._type)
        self._functions: dict[str, Any] = {}

    def synthesize(self, coefficients: npt.ArrayLike, truncation: float = 0.7) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of coefficients [N, 286].

        Args:
            coefficients: identity 160 | expression 64 | rotation 3 | illumination 27 | noise 32.
            truncation: how much of an identity's own style is kept in the first 8 layers, 1 for all, 0 for the average
                identity; the published images have 0.7. Expression, light and pose are not truncated.

        Raises:
            ValueError: wrong shape, values that are not finite, or truncation outside 0 to 1.
        """
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation is {truncation}, expected 0 to 1")
        function = self._function("images", self._images, [None, COEFFICIENTS], [])
        batch = _check(coefficients, "coefficients", (COEFFICIENTS,))
        return self._run(lambda rows: function(rows, np.float32(truncation)), batch, np.uint8)

    synthesise = synthesize  # the name that scripts written before the first release use

    def map(self, coefficients: npt.ArrayLike) -> Floats:
        """Style vectors float32 [N, W] of coefficients [N, 286], before truncation.

        Raises:
            ValueError: wrong shape, or values that are not finite.
        """
        function = self._function("map", self._map, [None, COEFFICIENTS])
        return self._run(function, _check(coefficients, "coefficients", (COEFFICIENTS,)), np.float32)

    def truncate(self, coefficients: npt.ArrayLike, truncation: float = 0.7) -> Floats:
        """Style vectors float32 [N, L, W] of coefficients [N, 286], truncated as in `synthesize`."""
        function = self._function("truncate", self._truncate, [None, COEFFICIENTS], [])
        batch = _check(coefficients, "coefficients", (COEFFICIENTS,))
        return self._run(lambda rows: function(rows, np.float32(truncation)), batch, np.float32)

    def synthesize_raw(self, styles: npt.ArrayLike, lod: float | None = None) -> Floats:
        """Images float32 [N, R, R, 3], about -1 to 1 and not clipped, of style vectors [N, L, W].

        Args:
            styles: one style vector for each layer.
            lod: level of detail: 0 is full resolution, 1 half, and between them a blend, blown up to R pixels. None
                takes the file's own, 0 once training is done.

        Raises:
            ValueError: wrong shape, values that are not finite, or lod out of range.
        """
        lod = self._check_lod(self._lod if lod is None else float(lod))
        shape = (self.topology.layers, self.topology.dlatent_size)
        function = self._function(f"raw {lod}", lambda styles: self._synthesize(styles, lod), [None, *shape])
        return self._run(function, _check(styles, "styles", shape), np.float32)

    def _check_lod(self, lod: float) -> float:
        most = self.topology.resolution_log2 - 2
        if not 0 <= lod <= most:
            raise ValueError(f"lod is {lod}, expected 0 to {most} at {self.topology.resolution} pixels")
        return lod

    def _function(self, key: str, graph: Callable[..., Any], *shapes: list[int | None]) -> Any:
        if key not in self._functions:
            signature = [self._tf.TensorSpec(shape) for shape in shapes]
            self._functions[key] = self._tf.function(graph, input_signature=signature)
        return self._functions[key]

    def _run(self, function: Callable[[Any], Any], rows: Floats, dtype: type) -> Any:
        """`function` on passes of exactly batch_size rows."""
        results = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            filled = np.concatenate([batch, np.repeat(batch[:1], self.batch_size - len(batch), axis=0)])
            with self._tf.device(self._device):
                results.append(function(self._tf.constant(filled)).numpy()[: len(batch)])
        if not results:
            raise ValueError("no rows: give one or more")
        return np.concatenate(results).astype(dtype, copy=False)

    def _images(self, coefficients: Any, truncation: Any) -> Any:
        tf = self._tf
        raw = self._synthesize(self._truncate(coefficients, truncation), self._check_lod(self._lod))
        return tf.cast(tf.clip_by_value((raw + 1) * 127.5, 0, 255), tf.uint8)  # cut off, not rounded

    def _map(self, coefficients: Any) -> Any:
        tf = self._tf
        for weight, bias in self._mapping:
            coefficients = tf.nn.leaky_relu(tf.matmul(coefficients, weight) + bias, _LEAK)
        return coefficients

    def _truncate(self, coefficients: Any, truncation: Any) -> Any:
        """The identity's part of the style is drawn to the average; the rest is left."""
        tf, rest = self._tf, COEFFICIENTS - COEFFICIENT_SIZES["identity"]
        identity = tf.pad(coefficients[:, :-rest], [[0, 0], [0, rest]])
        both = self._map(tf.concat([coefficients, identity], axis=0))
        styles, identity_styles = (half[:, None] for half in tf.split(both, 2))
        truncated = styles + (self._average[None, :TRUNCATED_LAYERS] - identity_styles) * (1 - truncation)
        plain = tf.repeat(styles, max(0, self.topology.layers - TRUNCATED_LAYERS), axis=1)
        return tf.concat([truncated, plain], axis=1)

    def _synthesize(self, styles: Any, lod: float) -> Any:
        tf, topology = self._tf, self.topology
        level = int(lod)
        top, blend = topology.resolution_log2 - level, lod - level
        x = self._layers[0]["start"]
        before = None
        for layer, tables in enumerate(self._layers[: 2 * top - 2]):
            log2 = layer // 2 + 2
            if layer > 0:
                if layer % 2 == 0:
                    before = x
                    x = self._blur(self._up(x, tables["kernel"], 2**log2), tables["blur"])
                else:
                    x = self._convolve(x, tables["kernel"])
                x = tf.nn.leaky_relu(x + tables["noise_bias"], _LEAK)
            x = _normalize(tf, x, tf.matmul(styles[:, layer], tables["style"]) + tables["style_bias"])
        image = self._rgb(x, top)
        if blend:
            coarse = self._enlarge(self._rgb(before, top - 1), 2)
            image = image + (coarse - image) * blend
        return self._enlarge(image, 2**level)

    def _convolve(self, x: Any, kernel: Any) -> Any:
        y = self._tf.nn.conv2d(self._tf.cast(x, self._type), kernel, 1, "SAME")
        return self._tf.cast(y, self._tf.float32)

    def _up(self, x: Any, kernel: Any, side: int) -> Any:
        tf = self._tf
        shape = [tf.shape(x)[0], side, side, kernel.shape[2]]
        return tf.cast(tf.nn.conv2d_transpose(tf.cast(x, self._type), kernel, shape, 2, "SAME"), tf.float32)

    def _blur(self, x: Any, kernel: Any) -> Any:
        return self._tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")

    def _rgb(self, x: Any, log2: int) -> Any:
        kernel, bias = self._to_rgb[log2]
        return self._tf.nn.conv2d(x, kernel, 1, "SAME") + bias

    def _enlarge(self, image: Any, factor: int) -> Any:
        if factor == 1:
            return image
        return self._tf.repeat(self._tf.repeat(image, factor, axis=1), factor, axis=2)


def check_average(average_w_id: npt.ArrayLike, topology: Topology) -> Floats:
    """average_w_id as float32. Raises ValueError: wrong shape, or values that are not finite."""
    average = np.asarray(average_w_id, np.float32)
    width, layers = topology.dlatent_size, topology.layers
    if average.shape not in ((width,), (1, width), (layers, width)):
        raise ValueError(f"average_w_id has shape {average.shape}, expected ({width},) or ({layers}, {width})")
    if not np.isfinite(average).all():
        raise ValueError("average_w_id holds values that are not finite")
    return average


def _check(values: npt.ArrayLike, name: str, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(values, np.float32)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected [N, {', '.join(map(str, shape))}]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _normalize(tf: Any, x: Any, style: Any) -> Any:
    """Instance norm, then style: scale (its 1 is in the table) and shift."""
    scale, shift = (half[:, None, None] for half in tf.split(style, 2, axis=1))
    x = x - tf.reduce_mean(x, [1, 2], keepdims=True)
    variance = tf.reduce_mean(tf.square(x), [1, 2], keepdims=True)
    return x * (tf.math.rsqrt(variance + _NORM_EPSILON) * scale) + shift


def _mapping_tables(tf: Any, networks: NetworkTables, topology: Topology) -> list[tuple[Any, Any]]:
    rate, layers = topology.mapping_lrmul, []
    for layer in range(topology.mapping_layers):
        weight, bias = (networks.variables[f"G_mapping/Dense{layer}/{part}"] for part in ("weight", "bias"))
        gain = np.float32(np.sqrt(2 / weight.shape[0]) * rate)
        layers.append((tf.constant(weight * gain), tf.constant(bias * np.float32(rate))))
    return layers


def _synthesis_tables(
    tf: Any, networks: NetworkTables, topology: Topology, dtype: Any
) -> tuple[list[dict[str, Any]], dict[int, tuple[Any, Any]]]:
    variables, layers, to_rgb = networks.variables, [], {}
    for layer, name in enumerate(topology.layer_names()):
        prefix, log2 = f"G_synthesis/{name}/", layer // 2 + 2
        noise = variables[f"G_synthesis/noise{layer}"][0, 0, :, :, None] * variables[prefix + "Noise/weight"]
        noise_bias = (noise + variables[prefix + "bias"])[None]
        style_bias = variables[prefix + "StyleMod/bias"].copy()
        style_bias[: len(style_bias) // 2] += 1
        gain = np.float32(1 / np.sqrt(topology.dlatent_size))
        tables = {"style": variables[prefix + "StyleMod/weight"] * gain, "style_bias": style_bias}
        if layer == 0:
            start = variables[prefix + "const"].transpose(0, 2, 3, 1) + noise_bias
            tables["start"] = np.maximum(start, start * np.float32(_LEAK))
        else:
            weight = variables[prefix + "weight"]
            kernel = weight * np.float32(np.sqrt(2 / np.prod(weight.shape[:3])))
            if layer % 2 == 0:
                kernel = _up_kernel(kernel, topology.fused(log2))
                tables["blur"] = np.tile(_blur_kernel(), (1, 1, kernel.shape[2], 1))
            tables["noise_bias"] = noise_bias
            tables["kernel"] = tf.cast(kernel, dtype)
        layers.append({key: tf.constant(value) for key, value in tables.items()})
        if layer % 2:
            prefix = f"G_synthesis/ToRGB_lod{topology.resolution_log2 - log2}/"
            weight = variables[prefix + "weight"]
            scaled = weight * np.float32(1 / np.sqrt(weight.shape[2]))
            to_rgb[log2] = tf.constant(scaled), tf.constant(variables[prefix + "bias"])
    return layers, to_rgb


def _up_kernel(kernel: Floats, fused: bool) -> Floats:
    """[3, 3, in, out] of a step up -> [4, 4, out, in] of the transposed convolution with stride 2 that equals it."""
    if not fused:
        kernel = kernel[::-1, ::-1]
    padded = np.pad(kernel.transpose(0, 1, 3, 2), [(1, 1), (1, 1), (0, 0), (0, 0)])
    return padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]


def _blur_kernel() -> Floats:
    return (np.outer([1, 2, 1], [1, 2, 1]) / 16).astype(np.float32)[:, :, None, None]
