"""Within-class whitening of embeddings (WCCN: Hatch, Kajarekar and Stolcke, Interspeech 2006), as part of the network.

Embeddings of one person differ more along some directions (pose, light) than along others. Whitening by the covariance
of these differences makes them alike in all directions, so that the cosine weighs a direction by how much it says about
who it is. Identities are those of synthetic faces: no label of a real person is needed.

The whitening is linear and networks end in a linear layer and BatchNorm: it goes into their weights, and what comes out
is a network of the same architecture.

Shape legend: N images, D embedding size, C identities.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True)
class WithinClassWhitening:
    """Embedding e becomes (e - mean) @ matrix, of the same mean squared length. Make one with `fit`.

    Attributes:
        mean: float64 [D].
        matrix: float64 [D, D], symmetric.
        images, identities: that it was fitted on.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    images: int
    identities: int

    @classmethod
    def fit(cls, embeddings: Any, identities: Any, shrinkage: float = 0.02) -> WithinClassWhitening:
        """Fit on embeddings of several images of each identity; those of identities with one image are left out.

        Args:
            embeddings: [N, D], as the network gives them: not normalized, of images that are not flipped.
            identities: integers [N].
            shrinkage: share of the mean variance in the covariance, in (0, 1]; 1 changes no direction.

        Raises:
            ValueError: shapes that do not fit, values that are not finite, no identity with two different images.
        """
        values, labels = np.asarray(embeddings, np.float64), np.asarray(identities)
        if values.ndim != 2 or labels.shape != values.shape[:1]:
            raise ValueError(f"embeddings {list(values.shape)} and identities {list(labels.shape)} are not [N, D], [N]")
        if not np.isfinite(values).all():
            raise ValueError("embeddings are not finite")
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage:g}; it must be above 0 and at most 1")
        _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        several = counts[numbers] > 1
        values, numbers = values[several], np.unique(numbers[several], return_inverse=True)[1]
        if not len(values):
            raise ValueError("no identity has two images: within-class whitening needs several images of each")
        counts = np.bincount(numbers)
        sums = np.zeros((len(counts), values.shape[1]))
        np.add.at(sums, numbers, values)
        within = values - (sums / counts[:, None])[numbers]
        variances, directions = np.linalg.eigh(within.T @ within / (len(values) - len(counts)))
        average = variances.mean()
        if not average > 0:
            raise ValueError("the images of each identity have one embedding: there is nothing to whiten by")
        scales = 1 / np.sqrt((1 - shrinkage) * np.maximum(variances, 0) + shrinkage * average)
        mean = values.mean(0)
        matrix = (directions * scales) @ directions.T
        matrix *= np.sqrt(np.mean(values**2) / np.mean(((values - mean) @ matrix) ** 2))
        return cls(mean, matrix, len(values), len(counts))

    def apply(self, embeddings: Any) -> NDArray[np.float32]:
        """Whitened embeddings [N, D]."""
        return ((np.asarray(embeddings, np.float64) - self.mean) @ self.matrix).astype(np.float32)

    def fold_into(self, backbone: nn.Module) -> nn.Module:
        """A copy of a network that gives whitened embeddings, in evaluation mode.

        The last two layers, a `Linear` and a `BatchNorm1d`, become one linear map and a BatchNorm that adds the offset.

        Raises:
            ValueError: the network does not end in these layers, or its embeddings have another size.
        """
        backbone = copy.deepcopy(backbone).eval()
        linear, norm = _final_layers(backbone)
        if norm.num_features != len(self.mean):
            raise ValueError(f"the network's embeddings have {norm.num_features} values, not {len(self.mean)}")
        with torch.no_grad():
            deviation = torch.sqrt(_stored(norm.running_var) + norm.eps)
            gain = _stored(norm.weight) / deviation
            offset = _stored(norm.bias) - _stored(norm.running_mean) * gain
            if linear.bias is not None:
                offset += _stored(linear.bias) * gain
                linear.bias.zero_()
            matrix, mean = torch.from_numpy(self.matrix), torch.from_numpy(self.mean)
            linear.weight.copy_(matrix @ (gain[:, None] * _stored(linear.weight)))
            norm.weight.fill_(1)
            norm.bias.copy_(matrix @ (offset - mean))
            norm.running_mean.zero_()  # type: ignore[union-attr]
            norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
        return backbone


def _final_layers(backbone: nn.Module) -> tuple[nn.Linear, nn.BatchNorm1d]:
    """The linear layer and the BatchNorm that make the embedding: the last modules that run."""
    ran: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: ran.append((module, inputs[0], output)))
        for module in backbone.modules()
        if not list(module.children())
    ]
    size = int(getattr(backbone, "image_size", 112))
    try:
        with torch.inference_mode():
            embedding = backbone(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    if len(ran) > 1:
        (linear, _, between), (norm, taken, last) = ran[-2:]
        ends = torch.equal(between, taken) and torch.equal(last, embedding)
        if isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d) and norm.affine and ends:
            return linear, norm
    raise ValueError("the network does not end in a Linear layer and a BatchNorm1d with weights")


def _stored(tensor: torch.Tensor | None) -> torch.Tensor:
    """A parameter or buffer in float64."""
    assert tensor is not None
    return tensor.detach().double()
