"""The devices that networks run on: their names in settings, and the one that an actor holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_device(device: str) -> None:
    """Raise ValueError unless the device is `auto`, `cpu` or `cuda`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose 'auto', 'cpu' or 'cuda'")


def actor_device(gpus: float, cpus: float) -> torch.device:
    """Where an actor's network runs: on the GPU it holds a share of, else on so many threads as it holds CPUs."""
    import torch

    if gpus > 0:
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cpu")
