"""From identity codes and factors to the styles of every layer.

An identity is a w of the mapping network, drawn toward the mean, whose pose, smile and direction of light are taken out
(the attributes that an image should decide). An image adds, by resolution: rotation to the coarse layers, expression to
the middle ones, light to the fine ones; it mixes another w into the coarsest layer (hair, background) and into the
finest ones (colors). So what makes a person is in the layers that an image leaves alone.

Shapes: N batch, A attributes, L styles, 512 numbers a style.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from facelib.synthesis.latents import factor_slices, identity_latents
from facelib.synthesis.mobilestylegan.networks import STYLE_LAYERS, MappingNetwork
from facelib.synthesis.mobilestylegan.weights import STYLE

Floats = npt.NDArray[np.float32]

DIRECTIONS = "directions.npz"
_MIXED = 16  # numbers that choose the w mixed in; the first of a factor says how much of it
# Factor → what its numbers are.
FACTORS: dict[str, int] = {"expression": 2, "illumination": 5, "rotation": 2, "hair": 1 + _MIXED, "colors": 1 + _MIXED}
EDITS: dict[str, tuple[str, ...]] = {
    "expression": ("mouth_width", "mouth_open"),
    "illumination": ("side_light", "top_light", "brightness", "warmth", "contrast"),
    "rotation": ("yaw", "pitch"),
}
MIXED = ("hair", "colors")
LARGEST = 2.0  # edits of more standard deviations than that leave what the network has learned
_HAIR_AT_16 = 1 / 3  # how much of hair's share goes into the 16² layers
# Standard deviation of each attribute within an identity, in its unit; for hair and colors, the largest share mixed in.
WIDTHS: dict[str, float] = {
    "mouth_width": 0.06,
    "mouth_open": 5.0,
    "side_light": 0.3,
    "top_light": 0.12,
    "brightness": 15.0,
    "warmth": 10.0,
    "contrast": 5.0,
    "yaw": 17.0,
    "pitch": 7.0,
    "hair": 0.35,
    "colors": 0.8,
}
# What an identity has none of: its own value of these would shift all of its images.
NEUTRAL = ("yaw", "pitch", "mouth_width", "side_light", "top_light")


@dataclass(frozen=True)
class Directions:
    """Where attributes lie in w, as `fit_directions` measured it.

    Attributes:
        mean: [512] of w.
        filters: attribute → [512]: (w − mean) · filter is the attribute less its mean, in its unit.
        edits: attribute → [512]: what to add to w for one unit more, with the other attributes unchanged.
        gains: attribute → how far its edit moves it when only the layers of its factor get it.
    """

    mean: Floats
    filters: Mapping[str, Floats]
    edits: Mapping[str, Floats]
    gains: Mapping[str, float]


def load_directions() -> Directions:
    """The measured directions, data of this package."""
    data = files("facelib.synthesis.mobilestylegan").joinpath(DIRECTIONS).read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = [str(name) for name in arrays["names"]]
        filters, edits = dict(zip(names, arrays["filters"])), dict(zip(names, arrays["edits"]))
        return Directions(arrays["mean"], filters, edits, dict(zip(names, arrays["gains"].tolist())))


class StyleComposer:
    """Codes and factors → styles, on the device of the mapping network.

    Args:
        mapping: z → w.
        directions: see `load_directions`.
        layers: L, how many styles the synthesis takes.
        truncation: share of a w's distance from the mean that is kept, 0 to 1.
        widths: attribute or mixing factor → its spread, instead of that in `WIDTHS`.
    """

    def __init__(
        self,
        mapping: MappingNetwork,
        directions: Directions,
        layers: int,
        truncation: float,
        widths: Mapping[str, float],
    ) -> None:
        self.mapping, self.truncation = mapping, truncation
        self.widths = {**WIDTHS, **widths}
        device = mapping.layers[0].get_buffer("weight").device
        self._mean = torch.tensor(directions.mean, device=device)
        self._filters = torch.tensor(np.stack([directions.filters[name] for name in NEUTRAL]), device=device)
        self._neutral = torch.tensor(np.stack([directions.edits[name] for name in NEUTRAL]), device=device)
        self._steps = {
            factor: torch.tensor(
                np.stack([self.widths[a] / directions.gains[a] * directions.edits[a] for a in names]), device=device
            )
            for factor, names in EDITS.items()
        }
        self._shares = {
            name: torch.tensor(shares[:layers], dtype=torch.float32, device=device)[:, None]
            for name, shares in layer_shares(self.widths).items()
        }

    def __call__(self, codes: Tensor, factors: Tensor) -> Tensor:
        """Styles [N, L, 512] of codes [N, 512] and factors [N, F]."""
        parts = {name: factors[:, place] for name, place in factor_slices(FACTORS).items()}
        latents = [codes, *(_mixing_latents(parts[name][:, 1:]) for name in MIXED)]
        w = self.mapping(torch.cat(latents)).view(len(latents), len(codes), STYLE)
        w = self.truncation * (w - self._mean)
        person, *others = (w - (w @ self._filters.T) @ self._neutral).unbind(0)
        styles = (self._mean + person)[:, None]
        for name, other in zip(MIXED, others, strict=True):
            # |x| of a normal number through its distribution: uniform in 0..1, and 0 mixes nothing.
            amount = torch.special.erf(parts[name][:, :1].abs() * 0.5**0.5)
            styles = styles + (amount * (other - person))[:, None] * self._shares[name]
        for name, steps in self._steps.items():
            styles = styles + (parts[name].clamp(-LARGEST, LARGEST) @ steps)[:, None] * self._shares[name]
        return styles


def layer_shares(widths: Mapping[str, float]) -> dict[str, list[float]]:
    """Factor → the share of it that each of the 23 styles takes, by the size of the features that the layer makes."""
    # An upsampling belongs to the size that it makes, but for the first, which sets the pose as the 4² layer does.
    sizes = [size if not name.endswith(".up") or size == 4 else 2 * size for name, size in STYLE_LAYERS]
    hair, colors = widths["hair"], widths["colors"]
    return {
        "rotation": [float(size <= 16) for size in sizes],
        "expression": [float(8 <= size <= 32) for size in sizes],
        "illumination": [float(size >= 32) for size in sizes],
        "hair": [hair if size == 4 else _HAIR_AT_16 * hair if size == 16 else 0.0 for size in sizes],
        "colors": [colors if size >= 64 else 0.0 for size in sizes],
    }


def check_widths(widths: Mapping[str, float]) -> None:
    """Raise ValueError unless every width is of a known attribute and in its range."""
    for name, width in widths.items():
        if name not in WIDTHS:
            raise ValueError(f"widths has no {name!r}; there are {', '.join(WIDTHS)}")
        if not 0 <= width <= (1 if name in MIXED else 10 * WIDTHS[name]):
            largest = 1 if name in MIXED else 10 * WIDTHS[name]
            raise ValueError(f"widths: {name} is {width}, expected 0 to {largest:g}")


def _mixing_latents(numbers: Tensor) -> Tensor:
    """z [N, 512] of a few normal numbers: each is repeated, with fixed signs, so that z is normal in a subspace."""
    signs = torch.from_numpy(np.sign(identity_latents(0, [0], STYLE))).to(numbers.device)
    return numbers.repeat_interleave(STYLE // _MIXED, 1) * signs
