"""Momentum contrast (He et al., CVPR 2020) with a margin, as USynthFace (FG 2023, arXiv 2211.07371) trains on
synthetic faces.

Two images of one identity are embedded by two encoders: the query encoder learns, the key encoder is its running
average. A query must be nearer to its own key than to the K keys of former batches, which wait in a queue:

    logits = [q·k − margin, q·queue] / temperature,    cross-entropy to column 0

The module knows tensors only. Loss, optimizer and schedule are the caller's:

    moco = MoCo(build_backbone("iresnet50"))
    logits, targets = moco(query, key)
    torch.nn.functional.cross_entropy(logits, targets).backward()

Across ranks, wrap it as `DistributedDataParallel(moco, forward_sync_buffers=False)`: every rank enqueues the keys of
all ranks and thus holds the same queue without any broadcast (64 MB a step at the published size). DDP copies rank 0's
parameters, but then not its buffers, so the first queue comes from `seed` and not from the global generator. Give
every rank the same seed and batches of one size. The optimizer may take all of `moco.parameters()`: it skips what has
no gradient.

Shapes: N batch of one rank, W ranks, B = W·N keys enqueued a step (2·W·N when symmetric), D embedding, K queue.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from facelib.utils import distributed
from facelib.utils.random_streams import Purpose, random_generator, torch_seed
from facelib.utils.step_counter import StepCounter
from facelib.utils.unit_vectors import unit_vectors

QUEUE_POLICIES = ("fifo", "replace_most_similar", "replace_least_similar")


class MoCo(StepCounter):
    """Query encoder, momentum (key) encoder and the queue of negatives.

    Args:
        encoder: maps a batch of any tensor to embeddings [N, D]. Becomes `query_encoder`; `key_encoder` is its copy.
        embedding_size: D, width of the encoder's output.
        queue_size: K, number of negatives. Need not be a multiple of the batch, but must hold one global batch.
        momentum: share the key encoder keeps of itself at every step.
        temperature: divides the cosines.
        margin: subtracted from the positive cosine before the temperature.
        queue_policy: "fifo" replaces the oldest entries. The other two are FIFO until the queue is first full (the
            batch that fills it goes in whole, wrapping around); afterwards each key replaces the entry most or least
            similar to it by cosine, the entries taken as they were before this batch. Where several keys choose one
            entry the last one (by rank, then row) stays, on every device.
        projection_size: width of an MLP head (linear, ReLU, linear) between encoder and contrast, not used at
            evaluation; None contrasts the embeddings themselves. With a head the queue holds projections.
        symmetric: contrast both directions: 2N rows of logits (query to key first), the keys of both enqueued.
        batch_negatives: append the B keys of this step to the negatives; a row's own column is −inf.
        exclude_same_identity: negatives of the query's own identity get −inf; `forward` then needs identities.
        seed: of the first queue and of the shuffles across ranks.
        preprocess: applied to images just before an encoder. Images go to other ranks without it: as uint8, say.

    After a forward pass `feature_norm` has the mean length of the query embeddings before normalization (XNorm).

    All in the state_dict, so that a resumed run continues bit for bit: `queue` [D, K] unit columns, at first random
    normal ones; `queue_pointer`, where the next key goes; `queue_filled`, entries written so far, at most K; `steps`;
    with exclude_same_identity `queue_identities` [K], −1 for the random ones.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """

    queue: Tensor
    queue_pointer: Tensor
    queue_filled: Tensor
    feature_norm: Tensor
    queue_identities: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        embedding_size: int = 512,
        queue_size: int = 32768,
        momentum: float = 0.999,
        temperature: float = 0.07,
        margin: float = 0.1,
        queue_policy: str = "fifo",
        projection_size: int | None = None,
        symmetric: bool = False,
        batch_negatives: bool = False,
        exclude_same_identity: bool = False,
        seed: int = 0,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        _check_settings(embedding_size, queue_size, momentum, temperature, margin, queue_policy, projection_size)
        self.embedding_size = embedding_size
        self.queue_size = queue_size
        self.momentum = momentum
        self.temperature = temperature
        self.margin = margin
        self.queue_policy = queue_policy
        self.symmetric = symmetric
        self.batch_negatives = batch_negatives
        self.exclude_same_identity = exclude_same_identity
        self.seed = seed
        self.preprocess = preprocess

        self.query_encoder = encoder
        self.query_projection = _projection(embedding_size, projection_size)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.query_projection).requires_grad_(False)

        queue = torch.randn(
            projection_size or embedding_size,
            queue_size,
            generator=torch.Generator().manual_seed(torch_seed(Purpose.MOCO_QUEUE, seed)),
        )
        self.register_buffer("queue", unit_vectors(queue, dim=0))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.long))
        self.register_buffer("feature_norm", torch.zeros(()), persistent=False)
        if exclude_same_identity:
            self.register_buffer("queue_identities", torch.full((queue_size,), -1))

    def forward(self, query: Tensor, key: Tensor, identities: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Contrast two views of the same N identities; in training mode update the key encoder and the queue as well.

        Args:
            query: [N, ...] one view of each identity.
            key: [N, ...] another view, same order.
            identities: [N] integers >= 0, read only with exclude_same_identity.

        Returns:
            logits [N, 1+K] (float32 under autocast; 2N rows when symmetric, B more columns with batch_negatives),
            already divided by the temperature, the positive in column 0; targets, zeros [N]. The negatives are the
            queue as it was before this step's keys.

        Raises:
            ValueError: views of different length, encoder output not [N, D], identities missing, batch > queue_size.
        """
        identities = self._check_batch(query, key, identities)
        embedded = [self._embed_query(images) for images in ((query, key) if self.symmetric else (query,))]
        queries = [unit for unit, _ in embedded]
        self.feature_norm = torch.stack([norm for _, norm in embedded]).mean()
        if self.training:
            self.update_key_encoder()
        keys = [self._embed_key(key)]  # of all ranks, [W·N, D] each
        if self.symmetric:
            keys.append(self._embed_key(query))

        all_keys = torch.cat(keys)  # [B, D]
        all_identities = torch.cat([distributed.gather(identities)] * len(keys)) if identities is not None else None
        # A copy: autograd keeps the negatives for backward, which runs after the queue has moved on.
        negatives = self.queue.clone()
        negative_identities = torch.cat([self.queue_identities, all_identities]) if all_identities is not None else None
        if self.batch_negatives:
            negatives = torch.cat([negatives, all_keys.T], dim=1)
        mine = slice(distributed.rank() * len(query), (distributed.rank() + 1) * len(query))
        logits = torch.cat(
            [self._logits(q, k[mine], negatives, identities, negative_identities) for q, k in zip(queries, keys)]
        )
        if self.training:
            self._enqueue(all_keys, all_identities)
            self.steps += 1
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Move every key parameter by 1 − momentum toward its query parameter; BatchNorm statistics stay its own."""
        query: list[Tensor] = [*self.query_encoder.parameters(), *self.query_projection.parameters()]
        key: list[Tensor] = [*self.key_encoder.parameters(), *self.key_projection.parameters()]
        if key:  # one kernel for all of them
            torch._foreach_lerp_(key, query, 1.0 - self.momentum)

    def _embed_query(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit queries [N, D], and the mean length of the encoder's embeddings."""
        embeddings = self._encode(self.query_encoder, images)
        norm = embeddings.detach().float().norm(dim=1).mean()
        return self._project(self.query_projection, embeddings), norm

    @torch.no_grad()
    def _embed_key(self, images: Tensor) -> Tensor:
        """Unit keys [W·N, D] of all ranks' images, in rank order.

        BatchNorm statistics are per rank. Were a key normalized together with the keys of the same rows as its query,
        the network could find the positive by its batch statistics; so each rank embeds a random share of all images.
        """
        ranks = distributed.world_size()
        if ranks == 1:
            return self._project(self.key_projection, self._encode(self.key_encoder, images))
        # The permutation is a function of (seed, step): the same on every rank and after a resume.
        order = random_generator(Purpose.KEY_SHUFFLE, self.seed, self.steps).permutation(ranks * len(images))
        exchanged = distributed.exchange_rows(images, order)
        keys = self._project(self.key_projection, self._encode(self.key_encoder, exchanged))
        return distributed.restore_rows(distributed.gather(keys), order)

    def _encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Embeddings [N, D] of any length."""
        embeddings: Tensor = encoder(images if self.preprocess is None else self.preprocess(images))
        if embeddings.shape != (len(images), self.embedding_size):
            raise ValueError(
                f"encoder gave embeddings of shape {list(embeddings.shape)}, expected [{len(images)}, "
                f"{self.embedding_size}]: set embedding_size to the encoder's output width"
            )
        return embeddings

    def _project(self, projection: nn.Module, embeddings: Tensor) -> Tensor:
        """Unit vectors, in the queue's precision whatever autocast does to the encoder."""
        embeddings = projection(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            return unit_vectors(embeddings.to(self.queue.dtype), dim=1)

    def _logits(
        self,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor,
        identities: Tensor | None,
        negative_identities: Tensor | None,
    ) -> Tensor:
        """[N, D] unit queries and keys, [D, M] negatives -> logits [N, 1+M]."""
        count, ranks = len(queries), distributed.world_size()
        with torch.autocast(queries.device.type, enabled=False):
            positive = (queries * keys).sum(dim=1, keepdim=True) - self.margin
            negative = queries @ negatives
            if identities is not None and negative_identities is not None:
                same = identities[:, None] == negative_identities[None, : negative.shape[1]]
                negative = negative.masked_fill(same, -math.inf)
            if self.batch_negatives:
                rows = torch.arange(count, device=queries.device)[:, None]
                blocks = torch.arange(2 if self.symmetric else 1, device=queries.device) * ranks + distributed.rank()
                own = self.queue_size + blocks * count + rows  # keys of this row's identity, in either view
                negative = negative.scatter(1, own, -math.inf)
            return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, identities: Tensor | None) -> None:
        """[B, D] keys of all ranks into the queue by the queue policy, without waiting for the device."""
        position = torch.arange(len(keys), device=keys.device)
        entries = (self.queue_pointer + position) % self.queue_size
        advance: int | Tensor = 1
        if self.queue_policy != "fifo":
            full = self.queue_filled >= self.queue_size
            similarities = keys @ self.queue
            most = self.queue_policy == "replace_most_similar"
            nearest = similarities.argmax(dim=1) if most else similarities.argmin(dim=1)
            entries = torch.where(full, nearest, entries)
            advance = (~full).long()
            # Keys that chose one entry all write the last one's value: the order of writing does not matter.
            last = torch.full((self.queue_size,), -1, device=keys.device).scatter_reduce(0, entries, position, "amax")
            keys = keys[last[entries]]
            identities = identities[last[entries]] if identities is not None else None
        self.queue.index_copy_(1, entries, keys.T)
        if identities is not None:
            self.queue_identities.index_copy_(0, entries, identities)
        self.queue_pointer.copy_((self.queue_pointer + len(keys) * advance) % self.queue_size)
        self.queue_filled.copy_((self.queue_filled + len(keys)).clamp(max=self.queue_size))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Also takes a state whose queue has another length: its newest keys stay.

        Keys are worth keeping (a new queue needs K/B steps to fill, and a loss against random columns is an easy one);
        which of them to drop is clear, the oldest come from the oldest encoder. A longer queue is not full at first:
        its last columns are random, as at the start of a training.
        """
        queue = state_dict.get(f"{prefix}queue")
        if queue is not None and queue.shape[0] == self.queue.shape[0] and queue.shape[1] != self.queue_size:
            filled, pointer = int(state_dict[f"{prefix}queue_filled"]), int(state_dict[f"{prefix}queue_pointer"])
            # Columns of keys from the oldest to the newest; below `filled` a queue has not yet wrapped around.
            order = torch.arange(filled)
            if filled == queue.shape[1]:
                order = order.roll(-pointer)
            newest = order[-min(filled, self.queue_size) :]
            for name in ("queue", "queue_identities"):
                if f"{prefix}{name}" in state_dict and hasattr(self, name):
                    resized = getattr(self, name).detach().clone()
                    kept = state_dict[f"{prefix}{name}"].to(resized.device)[..., newest.to(resized.device)]
                    resized[..., : len(newest)] = kept
                    state_dict[f"{prefix}{name}"] = resized
            state_dict[f"{prefix}queue_filled"] = torch.tensor(len(newest))
            state_dict[f"{prefix}queue_pointer"] = torch.tensor(len(newest) % self.queue_size)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _check_batch(self, query: Tensor, key: Tensor, identities: Tensor | None) -> Tensor | None:
        if len(query) != len(key):
            raise ValueError(f"query has {len(query)} rows, key has {len(key)}: give two views of the same identities")
        enqueued = len(query) * distributed.world_size() * (2 if self.symmetric else 1)
        if enqueued > self.queue_size:
            raise ValueError(
                f"a step enqueues {enqueued} keys but queue_size={self.queue_size}: raise queue_size or lower the batch"
            )
        if not self.exclude_same_identity:
            return None
        if identities is None or identities.shape != (len(query),):
            found = "None" if identities is None else f"shape {list(identities.shape)}"
            raise ValueError(
                f"exclude_same_identity=True needs identities of shape [{len(query)}] in forward, got {found}"
            )
        return identities


def contrast_accuracy(logits: Tensor, top: int = 1) -> Tensor:
    """Share of rows of logits [N, 1+K] whose positive (column 0) is among the `top` largest: a scalar tensor in 0..1.

    A negative that equals the positive counts as larger.
    """
    # What is not a number is not above a negative, so a row with one is wrong.
    rivals = (~(logits[:, :1] > logits[:, 1:])).sum(dim=1)
    return (rivals < top).float().mean()


def _projection(embedding_size: int, projection_size: int | None) -> nn.Module:
    if projection_size is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(embedding_size, embedding_size), nn.ReLU(), nn.Linear(embedding_size, projection_size)
    )


def _check_settings(
    embedding_size: int,
    queue_size: int,
    momentum: float,
    temperature: float,
    margin: float,
    queue_policy: str,
    projection_size: int | None,
) -> None:
    for name, size in (
        ("embedding_size", embedding_size),
        ("queue_size", queue_size),
        ("projection_size", 1 if projection_size is None else projection_size),
    ):
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum} must lie in 0..1: it is the share the key encoder keeps of itself")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be positive and finite")
    if not 0 <= margin <= 2:
        raise ValueError(f"margin={margin} must lie in 0..2: it is subtracted from a cosine")
    if queue_policy not in QUEUE_POLICIES:
        raise ValueError(f"queue_policy={queue_policy!r} is unknown: choose one of {', '.join(QUEUE_POLICIES)}")
