"""The devices that networks run on: their names in settings, and the one that an actor holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def check_device(device: str) -> None:
    """Raise ValueError unless the device is `auto`, `cpu` or `cuda`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose 'auto', 'cpu' or 'cuda'")


def gpu_visible() -> bool:
    """Whether this process may have an NVIDIA GPU, without importing PyTorch: no device file, or all of them hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))


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
        set_cuda_precision(tf32=False)
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cpu")


def set_cuda_precision(tf32: bool, cudnn_benchmark: bool = False) -> None:
    """How this process computes on GPUs.

    Args:
        tf32: float32 convolutions and matrix products with 10 bits of mantissa instead of 23; PyTorch's own choice for
            convolutions.
        cudnn_benchmark: try the algorithms for each shape when it first comes; worthwhile where shapes repeat.
    """
    import torch

    _set_float32("tf32" if tf32 else "ieee")
    torch.backends.cudnn.benchmark = cudnn_benchmark


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Forward passes in `bfloat16` or `float16` where that is enough; `float32`: all as it is."""
    import torch

    if precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, getattr(torch, precision))


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """On GPUs, float32 that is float32, whatever this process has set."""
    previous = _set_float32("ieee")
    try:
        yield
    finally:
        _set_float32(*previous)


def _set_float32(products: str, convolutions: str | None = None) -> tuple[str, str]:
    """Set the precision of matrix products and convolutions; returns what it was.

    By these names only: PyTorch refuses to read its older flags (`allow_tf32`) in a process that has set these.
    """
    import torch

    product: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made when the module is replaced
    previous = product.fp32_precision, convolution.fp32_precision
    product.fp32_precision, convolution.fp32_precision = products, convolutions or products
    return previous


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, without waiting for the work that runs there; one that is there as it is."""
    if (tensor.device.type, device.type) == ("cpu", "cuda"):
        tensor = tensor.pin_memory()  # from pageable memory the driver copies before it returns
    return tensor.to(device, non_blocking=True)
