"""The two training methods, MoCo and margin softmax with UNPG, behind the one protocol that the trainer knows.

A method is a module: `forward(images uint8 [V, N, 3, H, W], labels [N]) -> StepOutput`, `backbone` is the network that
is kept, and its state_dict holds everything. `sampling` says how many views of a sample it needs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from facelib.augmentation import to_network_input
from facelib.config import ModelSettings, Settings, UnpgSettings
from facelib.contrastive import MoCo, contrast_accuracy
from facelib.data import DatasetError
from facelib.losses import (
    ArcFace,
    CosFace,
    MagFace,
    MarginSoftmax,
    ShardedMarginLoss,
    contrastive_loss,
    triplet_loss,
)
from facelib.models import backbone_of, build_backbone, read_checkpoint, take_symmetric_pixels
from facelib.models.pixels import SYMMETRIC
from facelib.utils.wording import counted
from ray_jobs.training.sampler import SamplingSpec


class StepOutput(NamedTuple):
    """Result of a forward pass: the loss to minimize, and metrics (scalar tensors)."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Method(Protocol):
    """What the trainer needs of a method, besides being an `nn.Module`."""

    sampling: SamplingSpec
    published_names: tuple[tuple[str, str], ...]  # how a `PublishedTraining` begins names of tensors -> how state_dict

    def __init__(self, settings: Settings, classes: int) -> None: ...

    @property
    def backbone(self) -> nn.Module:
        """The embedding network that training is for."""
        ...

    @property
    def encoders(self) -> Sequence[nn.Module]:
        """All networks that embed images."""
        ...

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Loss and metrics of one batch."""
        ...


class MoCoMethod(nn.Module):
    """USynthFace: MoCo on two views of each synthetic identity; labels are not used."""

    published_names = (
        ("backbone.", "moco.query_encoder."),
        ("key_encoder.", "moco.key_encoder."),
        ("queue", "moco.queue"),
    )

    def __init__(self, settings: Settings, classes: int) -> None:
        super().__init__()
        ssl = settings.ssl
        self.sampling = SamplingSpec(2, ssl.pairs_per_identity, ssl.epochs_per_pass)
        self.moco = MoCo(
            initial_backbone(starting_model(settings)),
            embedding_size=settings.model.embedding_size,
            queue_size=ssl.queue_size,
            momentum=ssl.momentum,
            temperature=ssl.temperature,
            margin=ssl.margin,
            queue_policy=ssl.queue_policy,
            seed=settings.seed,
            preprocess=to_network_input,
            **ssl.options,
        )

    @property
    def backbone(self) -> nn.Module:
        """The query encoder."""
        return self.moco.query_encoder

    @property
    def encoders(self) -> Sequence[nn.Module]:
        """The query and the key encoder."""
        return self.moco.query_encoder, self.moco.key_encoder

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Contrastive loss of one batch."""
        # Identities serve only to exclude negatives of the query's identity, if that option is on.
        logits, targets = self.moco(images[0], images[1], labels if self.moco.exclude_same_identity else None)
        loss = nn.functional.cross_entropy(logits, targets)
        with torch.no_grad():
            positive = logits[:, 0].mean() * self.moco.temperature + self.moco.margin
            negative = _mean_negative(logits[:, 1:], self.moco) * self.moco.temperature
        return StepOutput(
            loss,
            {
                "contrast_accuracy": contrast_accuracy(logits),
                "contrast_accuracy_top5": contrast_accuracy(logits, top=5),
                "positive_cosine": positive,
                "negative_cosine": negative,
                "xnorm": self.moco.feature_norm,
            },
        )


class MarginSoftmaxMethod(nn.Module):
    """UNPG: a margin head over the identities, with the in-batch pairs as further negatives."""

    published_names = (("backbone.", "network."), ("class_weights", "softmax.head.weight"))

    def __init__(self, settings: Settings, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise DatasetError(
                f"the training faces have {counted(classes, 'identity')}: softmax over classes needs at least two. "
                "Import or generate more (generate.identities), or train without labels (train_ssl)"
            )
        unpg, size = settings.unpg, settings.model.embedding_size
        self.sampling = SamplingSpec(views=1)
        self.network = initial_backbone(starting_model(settings))
        options = head_options(unpg)
        self.softmax: ShardedMarginLoss | MarginSoftmax
        if unpg.shard_head:
            self.softmax = ShardedMarginLoss(
                HEADS[unpg.head], size, classes, unpg.wisk, unpg.sample_rate, settings.seed, **options
            )
        else:
            self.softmax = MarginSoftmax(HEADS[unpg.head](size, classes, **options), unpg.wisk)
        self.terms = [(weight, term) for weight, term in ((unpg.triplet, triplet_loss),
                                                          (unpg.contrastive, contrastive_loss)) if weight]  # fmt: skip

    @property
    def backbone(self) -> nn.Module:
        """The embedding network."""
        return self.network

    @property
    def encoders(self) -> Sequence[nn.Module]:
        """The embedding network."""
        return (self.network,)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Margin-softmax loss of one batch, plus the triplet and contrastive terms if they are on."""
        embeddings = self.network(to_network_input(images[0]))
        loss = self.softmax(embeddings, labels)
        metrics = {
            "train_accuracy": self.softmax.accuracy,
            "train_accuracy_top5": self.softmax.accuracy_top5,
            "xnorm": embeddings.detach().float().norm(dim=1).mean(),
        }
        for weight, term in self.terms:
            value = term(embeddings, labels)
            metrics[term.__name__] = value.detach()
            loss = loss + weight * value
        return StepOutput(loss, metrics)


def _mean_negative(negatives: torch.Tensor, moco: MoCo) -> torch.Tensor:
    """Mean of negative logits [N, M], without those that MoCo's options leave out (−inf)."""
    if not (moco.exclude_same_identity or moco.batch_negatives):
        return negatives.mean()
    left_out = negatives.isneginf()
    return negatives.masked_fill(left_out, 0.0).sum() / (~left_out).sum()


HEADS: dict[str, Any] = {"arcface": ArcFace, "cosface": CosFace, "magface": MagFace}
METHODS: dict[str, Any] = {"ssl": MoCoMethod, "unpg": MarginSoftmaxMethod}


def head_options(unpg: UnpgSettings) -> dict[str, Any]:
    """Arguments of the margin head besides its sizes."""
    # MagFace has no fixed margin: it grows with the feature norm.
    margin = {} if unpg.head == "magface" else {"margin": unpg.margin}
    return {"scale": unpg.scale, **margin, **unpg.options}


def backbone_kwargs(model: ModelSettings) -> dict[str, Any]:
    """Arguments of `build_backbone(model.name, **…)`, as a checkpoint stores them."""
    fixed = {"embedding_size": model.embedding_size, "dropout": model.dropout, "use_se": model.use_se}
    return {**fixed, **model.options}


def new_backbone(model: ModelSettings) -> nn.Module:
    """The network that the settings describe, with random weights."""
    return build_backbone(model.name, **backbone_kwargs(model))


def starting_model(settings: Settings) -> ModelSettings:
    """The model's settings, whose first weights are those of a published training that goes on, if there is one."""
    source = settings.train.continue_from or settings.model.init_from
    return settings.model.model_copy(update={"init_from": source})


def initial_backbone(model: ModelSettings) -> nn.Module:
    """A new backbone for images in [-1, 1], with the weights of `model.init_from` if that is given.

    Raises:
        ValueError: those weights do not fit the architecture of the settings, or the file does not say which pixels
            they expect and `model.normalization` does not either.
    """
    backbone = new_backbone(model)
    normalization = SYMMETRIC if model.normalization == "auto" else model.normalization
    if model.init_from:
        checkpoint = read_checkpoint(model.init_from)
        normalization = checkpoint.require_normalization(model.init_from, model.normalization)
        try:
            backbone.load_state_dict(backbone_of(checkpoint, model.init_from).state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"model.init_from: {model.init_from} does not fit {model.name} with these settings ({error})"
            ) from None
    return take_symmetric_pixels(backbone, normalization)
