"""Optimizer, learning-rate schedule, selection of the best checkpoint. Nothing here knows Ray or a method."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from facelib.config import TrainSettings


def build_optimizer(parameters: Iterable[nn.Parameter], train: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or AdamW.

    AdamW does not decay biases and normalization weights; SGD decays all parameters, as published.
    """
    trained = [p for p in parameters if p.requires_grad]
    if train.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1.0, momentum=0.9, weight_decay=train.weight_decay)
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1.0)


class LRScheduler:
    """Learning-rate schedule: linear warm-up, then `cosine`, `step`, `plateau` or `constant`.

    Args:
        global_batch: samples of one step over all workers.
    """

    def __init__(self, train: TrainSettings, steps_per_epoch: int, global_batch: int) -> None:
        self.train, self.steps_per_epoch = train, steps_per_epoch
        scale = global_batch / train.learning_rate_batch if train.learning_rate_batch else 1.0
        self.peak = train.learning_rate * scale
        self.plateau_factor, self.best, self.waited = 1.0, -math.inf, 0

    def at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        train = self.train
        warmup, total = train.warmup_epochs * self.steps_per_epoch, train.epochs * self.steps_per_epoch
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if train.schedule == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
        if train.schedule == "step":
            return self.peak * 0.1 ** sum(step >= e * self.steps_per_epoch for e in train.step_epochs)
        return self.peak * self.plateau_factor

    def observe(self, metric: float) -> None:
        """Update the plateau schedule with an epoch's metric; higher is better."""
        if metric > self.best:
            self.best, self.waited = metric, 0
            return
        self.waited += 1
        if self.train.schedule == "plateau" and self.waited > self.train.plateau_patience:
            self.plateau_factor, self.waited = self.plateau_factor * 0.1, 0

    def state_dict(self) -> dict[str, float]:
        """What `at` depends on besides the step."""
        return {"plateau_factor": self.plateau_factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.plateau_factor, self.best, self.waited = state["plateau_factor"], state["best"], int(state["waited"])


class BestCheckpoint:
    """The best metric so far, its weights, and the number of evaluations since.

    Args:
        patience: evaluations without improvement after which training stops (0: never).
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.metric, self.epoch, self.waited = -math.inf, -1, 0
        self.weights: dict[str, torch.Tensor] = {}

    def observe(self, metric: float, epoch: int, backbone: nn.Module) -> bool:
        """Keep the weights if `metric` is the best so far; returns whether it is."""
        if metric <= self.metric:
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
