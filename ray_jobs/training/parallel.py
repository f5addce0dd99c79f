"""How a method runs on its device and over the ranks: compiled encoders, gradients between ranks."""

from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from facelib.config import TrainSettings
from ray_jobs.training.sharded_state import keep_from_ddp


def distribute(method: nn.Module, train: TrainSettings, device: torch.device) -> nn.Module:
    """The method in DistributedDataParallel, which averages gradients over the ranks of the process group."""
    keep_from_ddp(method)
    wrapped = nn.parallel.DistributedDataParallel(
        method,
        device_ids=[device.index] if device.type == "cuda" else None,
        # The method itself keeps queue and key encoder equal on all ranks; broadcasting them would copy the queue every
        # step. Each rank has its own BatchNorm running statistics; the model that is kept has those of rank 0.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,  # gradients are reduced where they lie: one copy less of all of them
        static_graph=True,  # every step uses the same parameters in the same order
    )
    if train.gradient_compression == "bfloat16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def compile_encoders(method: Any, **options: Any) -> None:
    """torch.compile the encoders in place, not the losses around them; options: those of `torch.compile`.

    Encoders are nearly all of a step, and each becomes one graph.
    """
    for encoder in method.encoders:
        encoder.compile(**options)
