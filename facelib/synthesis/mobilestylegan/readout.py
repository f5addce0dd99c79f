"""From features in the middle of the network to an image: a small convolutional network fitted by `fit_readout`.

MobileStyleGAN has one head, at 1024 pixels. Stopping at the 64² or 128² features and reading them out costs a fifteenth
or a fifth of the whole and gives 128 or 256 pixels, more than an aligned crop of 112 needs. What the layers left out
would have made of the colors depends on their styles, so the read-out sees the style as well.

Shapes: N batch, C feature channels, S feature size, H hidden channels.
"""

from __future__ import annotations

import io
from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.synthesis.mobilestylegan.networks import CUTS, Conv2d, Linear
from facelib.synthesis.mobilestylegan.weights import STYLE

HIDDEN = 64
_COLORS = 12  # 2 × 2 pixels of 3
_CONVOLUTIONS = ("reduce", "mix", "refine", "correct")


class Readout(nn.Module):
    """Features [N, C, S, S] and w [N, 512] → RGB [N, 3, 2S, 2S].

    Two 3 × 3 convolutions and a residual layer between them, whose inputs w scales and shifts, beside a linear read-out
    that w shifts.
    """

    def __init__(self, channels: int, hidden: int = HIDDEN, styles: int = STYLE) -> None:
        super().__init__()
        self.hidden = hidden
        self.style: nn.Module = nn.Linear(styles, 6 * hidden + _COLORS)
        self.reduce: nn.Module = nn.Conv2d(channels, hidden + _COLORS, 1)
        self.mix: nn.Module = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.refine: nn.Module = nn.Conv2d(hidden, hidden, 1)
        self.correct: nn.Module = nn.Conv2d(hidden, _COLORS, 3, padding=1)

    def set_precision(self, dtype: torch.dtype) -> Readout:
        """Convolve in float32 or bfloat16; the style is float32 always."""
        for name in _CONVOLUTIONS:
            getattr(self, name).to(dtype)
        return self

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        """Images about [-1, 1], not clipped.

        Args:
            w: the style of the first layer that is left out.
        """
        style = self.style(w).to(features.dtype)[:, :, None, None]
        color, *styles = style.split([_COLORS, *[self.hidden] * 6], 1)
        x, linear = self.reduce(features).split([self.hidden, _COLORS], 1)
        x = _activate(x, *styles[:2])
        x = _activate(self.mix(x), *styles[2:4])
        x = x + _activate(self.refine(x), *styles[4:])
        return F.pixel_shuffle(linear + color + self.correct(x), 2)


def _activate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.leaky_relu(torch.addcmul(shift, x, 1 + scale), 0.2)


def readout_name(cut: int) -> str:
    """The file of a cut's read-out within this package."""
    return f"readout_{cut}.npz"


def load_readout(cut: int, trainable: bool = False) -> Readout:
    """The fitted read-out of the features of size `cut`, made for inference or, if `trainable`, of PyTorch's layers.

    Raises:
        ValueError: no such cut.
    """
    if cut not in CUTS:
        raise ValueError(f"cut is {cut}: choose one of {', '.join(map(str, CUTS))}")
    data = files("facelib.synthesis.mobilestylegan").joinpath(readout_name(cut)).read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    readout = Readout(arrays["reduce.weight"].shape[1], arrays["mix.weight"].shape[0])
    if trainable:
        readout.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return readout
    for name in _CONVOLUTIONS:
        setattr(readout, name, Conv2d(arrays[f"{name}.weight"], arrays[f"{name}.bias"]))
    readout.style = Linear(arrays["style.weight"], arrays["style.bias"])
    return readout


def save_readout(readout: Readout, path: str) -> None:
    """Store the read-out's weights, what belongs to the style in half precision."""
    arrays = {name: value.detach().numpy() for name, value in readout.state_dict().items()}
    arrays |= {name: value.astype(np.float16) for name, value in arrays.items() if name.startswith("style")}
    np.savez(path, allow_pickle=False, **arrays)
