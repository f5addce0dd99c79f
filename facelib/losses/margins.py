"""Margin heads: cosines between embeddings and class weights, made harder for the true class.

    CosFace  p = cos θ − m               Wang et al., CVPR 2018 (arXiv 1801.09414)
    ArcFace  p = cos(θ + m)              Deng et al., CVPR 2019 (arXiv 1801.07698)
    MagFace  p = cos(θ + m(‖x‖))         Meng et al., CVPR 2021 (arXiv 2103.06627), with a penalty on small ‖x‖

A head gives cosines, not a loss; `UnifiedNegativeLoss` turns them into one:

    head, loss = ArcFace(512, num_classes), UnifiedNegativeLoss()
    loss(head(embeddings, labels), embeddings, labels).backward()

The arithmetic is float32 (or float64, if that comes in), also under autocast: 16-bit cosines times 64 are too coarse.
A label of −1 means "no class": no margin is put on that row, and the loss leaves it out of its mean.

Shapes: N batch, C classes, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.utils.unit_vectors import unit_vectors

WEIGHT_INITS = ("normal", "xavier", "unit")


@dataclass(frozen=True)
class MarginOutput:
    """What a head gives to a loss.

    cosines [N, C]: with the margin on the true class.
    scale: factor from cosine to logit.
    penalty: scalar to be added to the loss as it is (MagFace), a mean over rows with a label; 0 for the others.
    target_cosines [N]: the true class's cosine before the margin, without gradient; of class 0 where the label is −1.
    """

    cosines: Tensor
    scale: float
    penalty: Tensor | float = 0.0
    target_cosines: Tensor | None = None

    def accuracy(self, labels: Tensor, top: int = 1) -> Tensor:
        """Share of labeled rows (labels [N]) whose class is among the `top` largest cosines; nan if none is labeled.

        Margins are left out.
        """
        return top_share(self.rivals(labels), labels >= 0, top)

    @torch.no_grad()
    def rivals(self, labels: Tensor) -> Tensor:
        """Number of other classes, [N], whose cosine is above that of a row's own class, margins left out."""
        if self.target_cosines is None:
            raise ValueError("target_cosines=None: accuracy needs an output that comes from a margin head")
        target = self.target_cosines[:, None]
        with_margin = self.cosines.gather(1, labels.clamp(min=0)[:, None])
        # A margin may also raise a cosine (θ + m beyond π): the own column never counts as a rival. What is not a
        # number is not at or below the target, so a row with one is wrong.
        return (~(self.cosines <= target)).sum(dim=1) - (with_margin > target)[:, 0].long()


def top_share(rivals: Tensor, labeled: Tensor, top: int) -> Tensor:
    """Share of the labeled rows (bool [N]) with fewer than `top` rivals [N]: scalar."""
    return ((rivals < top) & labeled).sum() / labeled.sum()


class MarginHead(nn.Module):
    """Base of the heads: normalized class weights, cosines and checks. Subclasses say what the margin does.

    Args:
        embedding_size: D.
        num_classes: C.
        scale: factor from cosine to logit.
        weight_init: of the class weights, see `initialize_classes`.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float, weight_init: str = "normal") -> None:
        super().__init__()
        for name, value in (("embedding_size", embedding_size), ("num_classes", num_classes), ("scale", scale)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be positive")
        if weight_init not in WEIGHT_INITS:
            raise ValueError(f"weight_init={weight_init!r} is unknown: choose one of {', '.join(WEIGHT_INITS)}")
        self.scale, self.weight_init = scale, weight_init
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        initialize_classes(self.weight, weight_init, num_classes)

    def forward(self, embeddings: Tensor, labels: Tensor) -> MarginOutput:
        """Cosines of embeddings [N, D] (any length) with every class, margin on the class in labels [N] (−1: none).

        Raises:
            ValueError: shapes do not fit, or a label on the CPU is outside −1..C−1 (see `check_labels`).
        """
        check_batch(embeddings, labels, self.weight.shape)
        return self.compare(embeddings, labels, self.weight)

    def compare(self, embeddings: Tensor, labels: Tensor, weight: Tensor) -> MarginOutput:
        """forward without its checks, with class weights [C, D] from elsewhere."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            weight = at_least_float32(weight).to(embeddings.dtype)
            cosines = F.linear(unit_vectors(embeddings), unit_vectors(weight))
            return self._add_margin(cosines, embeddings, labels)

    def _add_margin(self, cosines: Tensor, embeddings: Tensor, labels: Tensor) -> MarginOutput:
        index = labels.clamp(min=0)[:, None]
        target = cosines[torch.arange(len(labels), device=labels.device), index[:, 0]]
        with_margin, penalty = self.margin_of(target, embeddings, labels)
        # Added as a difference, in place: a copy of [N, C] is the largest tensor of the step.
        difference = torch.where(labels >= 0, with_margin - target, 0.0)
        return MarginOutput(cosines.scatter_add_(1, index, difference[:, None]), self.scale, penalty, target.detach())

    def margin_of(self, target: Tensor, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | float]:
        """Target cosines [N] -> (target cosines [N] with margin, penalty)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes and scale for print(head)."""
        num_classes, embedding_size = self.weight.shape
        return f"embedding_size={embedding_size}, num_classes={num_classes}, scale={self.scale}"


class ArcFace(MarginHead):
    """Additive angular margin: cos(θ + margin), margin in radians.

    gradient: "exact" differentiates cos(θ + margin). "straight_through" passes the gradient as if the margin were not
    there (insightface's arcface_torch trains so). Values are the same.

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        gradient: str = "exact",
        weight_init: str = "normal",
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, weight_init)
        _check_angle("margin", margin)
        if gradient not in ("exact", "straight_through"):
            raise ValueError(f'gradient={gradient!r} is unknown: choose "exact" or "straight_through"')
        self.margin = margin
        self.gradient = gradient

    def margin_of(self, target: Tensor, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """cos(θ + margin) of target cosines [N]; no penalty."""
        if self.gradient == "straight_through":
            return target + (_add_angle(target, self.margin) - target).detach(), 0.0
        return _add_angle(target, self.margin), 0.0


class CosFace(MarginHead):
    """Additive cosine margin: cos θ − margin. UNPG's published models use 0.5, the paper 0.35, arcface_torch 0.4.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        weight_init: str = "normal",
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, weight_init)
        if not 0 <= margin <= 2:
            raise ValueError(f"margin={margin} must lie in 0..2: it is subtracted from a cosine")
        self.margin = margin

    def margin_of(self, target: Tensor, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Target cosines [N] less the margin; no penalty."""
        return target - self.margin, 0.0


class MagFace(MarginHead):
    """Angular margin that grows with the embedding's length: good images (long embeddings) must fit more tightly.

    With a = ‖x‖ clamped to l_a..u_a: m(a) rises linearly from l_margin to u_margin (radians), and
    lambda_g · mean(a/u_a² + 1/a), smallest at a = u_a, is the penalty. With easy_margin, as published, the margin is
    put only on true classes within 90° (cos θ > 0).

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        l_margin: float = 0.45,
        u_margin: float = 0.8,
        l_a: float = 10.0,
        u_a: float = 110.0,
        lambda_g: float = 35.0,
        easy_margin: bool = True,
        weight_init: str = "normal",
    ) -> None:
        super().__init__(embedding_size, num_classes, scale, weight_init)
        _check_angle("l_margin", l_margin)
        _check_angle("u_margin", u_margin)
        if l_margin > u_margin:
            raise ValueError(f"l_margin={l_margin} must not exceed u_margin={u_margin}")
        if not 0 < l_a < u_a:
            raise ValueError(f"l_a={l_a}, u_a={u_a}: embedding lengths need 0 < l_a < u_a")
        if lambda_g < 0:
            raise ValueError(f"lambda_g={lambda_g} must not be negative")
        self.l_margin, self.u_margin = l_margin, u_margin
        self.l_a, self.u_a = l_a, u_a
        self.lambda_g = lambda_g
        self.easy_margin = easy_margin

    def margin_of(self, target: Tensor, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """cos(θ + m(‖x‖)) of target cosines [N] and the penalty on embeddings [N, D]."""
        length = torch.linalg.vector_norm(embeddings, dim=1).clamp(self.l_a, self.u_a)
        slope = (self.u_margin - self.l_margin) / (self.u_a - self.l_a)
        margin = self.l_margin + slope * (length - self.l_a)
        labeled = labels >= 0
        per_row = torch.where(labeled, length / self.u_a**2 + 1 / length, 0.0)
        with_margin = _add_angle(target, margin)
        if self.easy_margin:
            with_margin = torch.where(target > 0, with_margin, target)
        return with_margin, self.lambda_g * per_row.sum() / labeled.sum().clamp(min=1)


@torch.no_grad()
def initialize_classes(
    weight: Tensor, weight_init: str, num_classes: int, generator: torch.Generator | None = None
) -> None:
    """Fill some rows [.., D] of the class weights [C, D] with first values, in place.

    Only directions matter to the cosines, but how fast a step turns a class depends on its length.

    Args:
        weight_init: "normal" (standard deviation 0.01, arcface_torch), "xavier" (uniform, Glorot and Bengio 2010;
            UNPG's ArcFace and CosFace) or "unit" (uniform in a cube, then of length 1; MagFace).
        num_classes: C; Xavier's bound depends on it.
    """
    if weight_init == "normal":
        nn.init.normal_(weight, std=0.01, generator=generator)
    elif weight_init == "xavier":
        bound = math.sqrt(6 / (num_classes + weight.shape[1]))
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    else:
        weight.copy_(unit_vectors(nn.init.uniform_(weight, -1, 1, generator=generator)))


def at_least_float32(tensor: Tensor) -> Tensor:
    """16-bit floats as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_batch(embeddings: Tensor, labels: Tensor, sizes: Sequence[int]) -> None:
    """Raise ValueError unless embeddings are [N, D] and labels [N], for sizes (C, D); see `check_labels` for values.

    Values are looked at on the CPU alone: to read one from a GPU the host would wait for all work before it.
    """
    num_classes, embedding_size = sizes
    if embeddings.ndim != 2 or embeddings.shape[1] != embedding_size:
        raise ValueError(
            f"embeddings of shape {list(embeddings.shape)} do not fit a head of embedding_size={embedding_size}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels of shape {list(labels.shape)}, expected [{len(embeddings)}], one per embedding")
    if labels.device.type == "cpu":
        check_labels(labels, num_classes)


def check_labels(labels: Tensor | np.ndarray, num_classes: int) -> None:
    """Raise ValueError unless labels [N] are in −1..C−1.

    A loss on a GPU does not check this: call it for the labels of a batch while they are on the CPU. Out of range, they
    would end the process with no hint.
    """
    wrong = (labels < -1) | (labels >= num_classes)
    if wrong.any():
        raise ValueError(
            f"label {int(labels[wrong][0])} is outside −1..{num_classes - 1}: num_classes={num_classes} must exceed "
            "every label of the data"
        )


def _add_angle(cosine: Tensor, angle: Tensor | float) -> Tensor:
    """cos(arccos(cosine) + angle), finite in value and gradient also at ±1 and, by rounding, beyond."""
    sine_squared = (1 - cosine) * (1 + cosine)
    inside = sine_squared > 0
    sine = torch.where(inside, torch.where(inside, sine_squared, 1.0).sqrt(), 0.0)
    if isinstance(angle, Tensor):
        return cosine * angle.cos() - sine * angle.sin()
    return cosine * math.cos(angle) - sine * math.sin(angle)


def _check_angle(name: str, value: float) -> None:
    if not 0 <= value <= math.pi:
        raise ValueError(f"{name}={value} must lie in 0..π: it is an angle in radians")
