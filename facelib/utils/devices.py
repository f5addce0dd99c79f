"""The devices that networks run on: their names in settings, and the one that an actor holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def check_device(device: str) -> None:
    """Raise ValueError unless the device is `auto`, `cpu` or `cuda`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose 'auto', 'cpu' or 'cuda'")


def resolve_device(device: str) -> torch.device:
    """The device called `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`.

    Raises:
        ValueError: an unknown name, or CUDA wanted where PyTorch sees none.
    """
    import torch

    check_device(device)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("device is 'cuda', but PyTorch sees no GPU in this process: use 'cpu'")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def actor_device(gpus: float, cpus: float) -> torch.device:
    """Where an actor's network runs: on the GPU it holds a share of, else on so many threads as it holds CPUs."""
    import torch

    if gpus > 0:
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cpu")


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on the device, without waiting for the work that runs there."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from pageable memory the driver copies before it returns
    return tensor.to(device, non_blocking=True)
