"""The four decoders from N(0, 1) latents to face-model coefficients (Deng et al., CVPR 2020), one for each factor.

A decoder is three rectified dense layers and a linear one. The published TF1 checkpoints hold a whole VAE each; only
`<factor>/stage1/decoder/{fc0,fc1,fc2,x_hat}/{kernel,bias}` is read.

Shapes: N batch; latents [N, 179] = identity 128 | expression 32 | illumination 16 | rotation 3; coefficients [N, 286] =
identity 160 | expression 64 | rotation 3 | illumination 27 | noise 32: illumination and rotation change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from facelib.synthesis.discofacegan.tf_checkpoint import Checkpoint
from facelib.synthesis.discofacegan.topology import COEFFICIENT_SIZES
from facelib.utils.devices import resolve_device

# The files' names of the factors -> (ours, latents), in the order of the latents.
FACTORS = {"id": ("identity", 128), "exp": ("expression", 32), "gamma": ("illumination", 16), "rot": ("rotation", 3)}
LATENTS = sum(size for _, size in FACTORS.values())  # 179
LAYERS = ("fc0", "fc1", "fc2", "x_hat")
Tables = Mapping[str, npt.NDArray[np.float32]]


def read_decoder_checkpoint(prefix: str | Path, factor: str) -> dict[str, npt.NDArray[np.float32]]:
    """Tables "fc0/kernel" ... "x_hat/bias" of one decoder from a TF1 checkpoint.

    Args:
        prefix: the checkpoint without `.index` and `.data-00000-of-00001`.
        factor: id, exp, gamma or rot.

    Raises:
        ValueError: the file is damaged, or its variables are missing, misshapen or not finite.
    """
    try:
        checkpoint = Checkpoint(prefix)
    except (OSError, ValueError) as error:
        raise ValueError(f"{prefix}: no readable TensorFlow checkpoint ({error})") from error
    tables = {}
    for layer in LAYERS:
        for part in ("kernel", "bias"):
            name = f"{factor}/stage1/decoder/{layer}/{part}"
            if name not in checkpoint.variables:
                raise ValueError(f"{prefix}: has no variable {name}; is it the {factor} checkpoint?")
            try:
                tables[f"{layer}/{part}"] = checkpoint.read(name)
            except (OSError, ValueError) as error:
                raise ValueError(f"{prefix}: variable {name} cannot be read ({error})") from error
    check_decoder(tables, factor, str(prefix))
    return tables


def check_decoder(tables: Tables, factor: str, source: str) -> None:
    """Raises ValueError: the tables of a decoder do not fit together or hold values that are not finite."""
    name, size = FACTORS[factor]
    for layer in LAYERS:
        kernel, bias = tables[f"{layer}/kernel"], tables[f"{layer}/bias"]
        if kernel.ndim != 2 or kernel.shape[0] != size or bias.shape != kernel.shape[1:]:
            raise ValueError(
                f"{source}: {factor} {layer} has kernel {kernel.shape} and bias {bias.shape}, expected {size} inputs"
            )
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ValueError(f"{source}: {factor} {layer} holds values that are not finite")
        size = kernel.shape[1]
    if size != COEFFICIENT_SIZES[name]:
        raise ValueError(f"{source}: {factor} gives {size} coefficients, expected {COEFFICIENT_SIZES[name]}")


class LatentDecoders:
    """The four decoders.

    Args:
        tables: factor (id, exp, gamma, rot) -> tables as `read_decoder_checkpoint` gives them.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`.
    """

    def __init__(self, tables: Mapping[str, Tables], device: str = "auto") -> None:
        for factor in FACTORS:
            check_decoder(tables[factor], factor, "decoder tables")
        self._device = resolve_device(device)
        self._layers = {
            factor: [
                (
                    torch.from_numpy(np.array(tables[factor][f"{layer}/kernel"].T)).to(self._device),
                    torch.from_numpy(np.array(tables[factor][f"{layer}/bias"])).to(self._device),
                )
                for layer in LAYERS
            ]
            for factor in FACTORS
        }

    @torch.inference_mode()
    def decode(self, latents: npt.ArrayLike, noise: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Coefficients float32 [N, 286] of latents [N, 179] and noise [N, 32].

        Raises:
            ValueError: wrong shapes, or values that are not finite.
        """
        latents, noise = np.asarray(latents, np.float32), np.asarray(noise, np.float32)
        rows = len(latents) if latents.ndim else 0
        if latents.shape != (rows, LATENTS) or noise.shape != (rows, COEFFICIENT_SIZES["noise"]):
            raise ValueError(f"latents {latents.shape} and noise {noise.shape} must be [N, 179] and [N, 32]")
        if not (np.isfinite(latents).all() and np.isfinite(noise).all()):
            raise ValueError("latents or noise hold values that are not finite")
        rest, decoded = torch.from_numpy(latents).to(self._device), {}
        for factor, (name, size) in FACTORS.items():
            x, rest = rest[:, :size], rest[:, size:]
            *hidden, (weight, bias) = self._layers[factor]
            for hidden_weight, hidden_bias in hidden:
                x = F.linear(x, hidden_weight, hidden_bias).relu()
            decoded[name] = F.linear(x, weight, bias)
        ordered = torch.cat([decoded[name] for name in COEFFICIENT_SIZES if name in decoded], dim=1)
        return np.concatenate([ordered.cpu().numpy(), noise], axis=1)
