"""Optimizer, learning-rate schedule, selection of the best checkpoint. Nothing here knows Ray or a method."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from facelib.config import TrainSettings


def build_optimizer(parameters: Iterable[nn.Parameter], train: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    AdamW does not decay biases and normalization weights; SGD decays all parameters, as published. On a GPU a step is
    one kernel for many parameters.
    """
    trained = [p for p in parameters if p.requires_grad]
    fused = trained[0].device.type == "cuda" or None  # None: PyTorch's choice
    if train.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1.0, momentum=0.9, weight_decay=train.weight_decay, fused=fused)
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1.0, fused=fused)


class LRScheduler:
    """Learning-rate schedule: linear warm-up, then `cosine`, `poly`, `step`, `plateau` or `constant`.

    A function of the step, except for `plateau`, which does what torch's `ReduceLROnPlateau` does with the metrics of
    the evaluations so far.

    Args:
        steps_per_epoch: optimizer steps.
        global_batch: samples of one step over all workers.
    """

    def __init__(self, train: TrainSettings, steps_per_epoch: int, global_batch: int) -> None:
        self.train, self.steps_per_epoch = train, steps_per_epoch
        scale = global_batch / train.learning_rate_batch if train.learning_rate_batch else 1.0
        self.peak = train.learning_rate * scale
        self.plateau_factor, self.best, self.waited, self.cooldown = 1.0, -math.inf, 0, 0

    def at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        train = self.train
        warmup, total = train.warmup_epochs * self.steps_per_epoch, train.epochs * self.steps_per_epoch
        if step < warmup:
            # A warm-up may end within a step (0.01 epochs of 12 steps): the peak is never exceeded.
            return self.peak * min(1.0, (step + 1) / warmup)
        progress = (step - warmup) / (total - warmup)
        if train.schedule == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * progress))
        if train.schedule == "poly":
            return self.peak * (1 - progress) ** 2
        if train.schedule == "step":
            return self.peak * 0.1 ** sum(step >= e * self.steps_per_epoch for e in train.step_epochs)
        return self.peak * self.plateau_factor

    def observe(self, metric: float) -> None:
        """Update the plateau schedule with the metric of an evaluation; higher is better."""
        train = self.train
        if train.schedule != "plateau":
            return
        if metric > self.best * (1 + train.plateau_threshold):
            self.best, self.waited = metric, 0
        else:
            self.waited += 1
        if self.cooldown > 0:
            self.cooldown, self.waited = self.cooldown - 1, 0
        if self.waited > train.plateau_patience:
            self.plateau_factor *= 0.1
            self.cooldown, self.waited = train.plateau_cooldown, 0

    def state_dict(self) -> dict[str, float]:
        """What `at` depends on besides the step."""
        return {name: getattr(self, name) for name in ("plateau_factor", "best", "waited", "cooldown")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.plateau_factor, self.best, self.waited = state["plateau_factor"], state["best"], int(state["waited"])
        self.cooldown = int(state.get("cooldown", 0))  # checkpoints of former versions have none


class BestCheckpoint:
    """The best metric so far, its weights, and the number of evaluations since.

    Args:
        patience: evaluations without improvement after which training stops (0: never).
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.metric, self.epoch, self.waited = -math.inf, -1.0, 0
        self.weights: dict[str, torch.Tensor] = {}

    def observe(self, metric: float, epoch: float, backbone: nn.Module) -> bool:
        """Keep the weights if `metric` is the best so far; returns whether it is."""
        if not metric > self.metric:  # nor is NaN an improvement
            self.waited += 1
            return False
        self.metric, self.epoch, self.waited = metric, epoch, 0
        self.weights = {k: v.detach().cpu().clone() for k, v in backbone.state_dict().items()}
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything, the weights included."""
        return {k: getattr(self, k) for k in ("metric", "epoch", "waited", "weights")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        for key, value in state.items():
            setattr(self, key, value)


def resumed_step(epoch: int, epoch_samples: int, global_batch: int, steps_per_epoch: int) -> int:
    """The step to resume at, `epoch_samples` into epoch `epoch`, where the number of workers may have changed.

    The order within an epoch depends on the number of workers: after a change the rest of that epoch is drawn in the
    new order, at least one batch of it, because evaluation happens at an epoch's end.
    """
    return epoch * steps_per_epoch + min(epoch_samples // global_batch, steps_per_epoch - 1)
