"""Sizes, layers and variable names of a style-based generator (Karras et al., CVPR 2019) as DiscoFaceGAN uses it.

Everything follows from the settings a network was built with (`static_kwargs`). Settings that would change the
arithmetic and are not rebuilt here are refused by name; those that matter in training only are let pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COEFFICIENT_SIZES = {"identity": 160, "expression": 64, "rotation": 3, "illumination": 27, "noise": 32}
COEFFICIENTS = sum(COEFFICIENT_SIZES.values())  # 286, in this order
TRUNCATED_LAYERS = 8

_TRAINING_ONLY = {
    "truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "dlatent_avg_beta",
    "style_mixing_prob", "is_training", "is_validation", "is_template_graph", "randomize_noise", "structure",
    "force_clean_graph", "dlatent_broadcast", "func_name",
    "normalize_latents",  # DiscoFaceGAN's mapping network does not look at it
}  # fmt: skip
_FIXED: dict[str, Any] = {
    "num_channels": 3,
    "label_size": 0,
    "latent_size": COEFFICIENTS,
    "mapping_nonlinearity": "lrelu",
    "nonlinearity": "lrelu",
    "use_wscale": True,
    "use_styles": True,
    "const_input_layer": True,
    "use_noise": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "blur_filter": [1, 2, 1],
    "dtype": "float32",
}
_LIMITS: dict[str, tuple[float, float]] = {
    "resolution": (8, 1024),
    "fmap_base": (1, 1 << 20),
    "fmap_decay": (0, 8),
    "fmap_max": (1, 4096),
    "dlatent_size": (1, 4096),
    "mapping_fmaps": (1, 4096),
    "mapping_layers": (1, 32),
    "mapping_lrmul": (1e-6, 1e3),
}


@dataclass(frozen=True)
class Topology:
    """Sizes of mapping and synthesis network; the names are those of `static_kwargs`."""

    resolution: int
    fmap_base: int = 8192
    fmap_decay: float = 1.0
    fmap_max: int = 512
    dlatent_size: int = 512
    mapping_fmaps: int = 512
    mapping_layers: int = 8
    mapping_lrmul: float = 0.01
    fused_scale: bool | str = "auto"

    @classmethod
    def from_static_kwargs(cls, settings: Mapping[str, Any]) -> Topology:
        """Raises ValueError: a setting is missing, out of range, unknown or not supported."""
        sizes: dict[str, Any] = {}
        for name, value in settings.items():
            if name in _FIXED:
                if value != _FIXED[name]:
                    raise ValueError(f"static_kwargs.{name} is {value!r}, only {_FIXED[name]!r} is supported")
            elif name in _LIMITS:
                whole = name not in ("fmap_decay", "mapping_lrmul")
                low, high = _LIMITS[name]
                number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
                if not number or not low <= value <= high:
                    raise ValueError(f"static_kwargs.{name} is {value!r}, expected a number from {low} to {high}")
                sizes[name] = value
            elif name == "fused_scale":
                if value not in (True, False, "auto"):
                    raise ValueError(f"static_kwargs.fused_scale is {value!r}, expected True, False or 'auto'")
                sizes[name] = value
            elif name not in _TRAINING_ONLY:
                raise ValueError(f"static_kwargs.{name} is not known, so its network cannot be rebuilt")
        if "resolution" not in sizes or sizes["resolution"] & (sizes["resolution"] - 1):
            raise ValueError(f"static_kwargs.resolution is {sizes.get('resolution')}, expected a power of two")
        topology = cls(**sizes)
        if topology.feature_maps(topology.resolution_log2) < 1:
            raise ValueError(f"static_kwargs leave no feature maps at {topology.resolution} pixels: raise fmap_base")
        return topology

    @property
    def resolution_log2(self) -> int:
        return self.resolution.bit_length() - 1

    @property
    def layers(self) -> int:
        """Styled layers: two a resolution from 4 up; 14 at 256 pixels."""
        return 2 * self.resolution_log2 - 2

    def feature_maps(self, log2: int) -> int:
        """Channels at resolution 2**log2."""
        return min(int(self.fmap_base / 2.0 ** ((log2 - 1) * self.fmap_decay)), self.fmap_max)

    def fused(self, log2: int) -> bool:
        """Whether the step up to resolution 2**log2 was trained as a transposed convolution."""
        return 2**log2 >= 128 if self.fused_scale == "auto" else bool(self.fused_scale)

    def layer_names(self) -> list[str]:
        """Name of each styled layer within the synthesis network."""
        names = ["4x4/Const", "4x4/Conv"]
        for log2 in range(3, self.resolution_log2 + 1):
            names += [f"{2**log2}x{2**log2}/{part}" for part in ("Conv0_up", "Conv1")]
        return names

    def variables(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every variable, as the published file lays them out."""
        shapes: dict[str, tuple[int, ...]] = {"lod": (), "dlatent_avg": (self.dlatent_size,), "G_synthesis/lod": ()}
        for layer in range(self.layers):
            side = 2 ** (layer // 2 + 2)
            shapes[f"G_synthesis/noise{layer}"] = (1, 1, side, side)
        for layer, name in enumerate(self.layer_names()):
            log2 = layer // 2 + 2
            width, prefix = self.feature_maps(log2), f"G_synthesis/{name}/"
            if layer == 0:
                shapes[prefix + "const"] = (1, width, 4, 4)
            else:
                narrower = log2 > 2 and layer % 2 == 0
                shapes[prefix + "weight"] = (3, 3, self.feature_maps(log2 - 1) if narrower else width, width)
            shapes[prefix + "Noise/weight"] = (width,)
            shapes[prefix + "bias"] = (width,)
            shapes[prefix + "StyleMod/weight"] = (self.dlatent_size, 2 * width)
            shapes[prefix + "StyleMod/bias"] = (2 * width,)
            if layer % 2:
                to_rgb = f"G_synthesis/ToRGB_lod{self.resolution_log2 - log2}/"
                shapes[to_rgb + "weight"] = (1, 1, width, 3)
                shapes[to_rgb + "bias"] = (3,)
        for layer in range(self.mapping_layers):
            last = layer == self.mapping_layers - 1
            fan_in = COEFFICIENTS if layer == 0 else self.mapping_fmaps
            fan_out = self.dlatent_size if last else self.mapping_fmaps
            shapes[f"G_mapping/Dense{layer}/weight"] = (fan_in, fan_out)
            shapes[f"G_mapping/Dense{layer}/bias"] = (fan_out,)
        return shapes
