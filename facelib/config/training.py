"""Settings of training: data, network, augmentation, the two methods, the engine."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Positive, Section


class DataSettings(Section):
    """Where training reads faces from, and how."""

    dataset: str = Field("faces", description="face dataset to train on: a path or URI; relative to `output`")
    stream: bool = Field(
        False,
        description="make the faces while training, as `generate` and `align` say: new ones every epoch, none stored",
    )
    heldout: str = Field("heldout", description="face dataset for model selection; relative to `output`; empty: none")
    window_row_groups: Count = Field(32, description="row groups read and shuffled together; larger mixes better")
    readers: Count = Field(2, description="windows read ahead by each training worker")
    read_ahead: Count = Field(4, description="batches that each of those windows holds ready")
    cpus_per_reader: Positive = Field(0.25, description="CPUs reserved by a reading task (fractions allowed)")


class ModelSettings(Section):
    """The embedding network."""

    name: str = Field(
        "iresnet50",
        description="backbone: iresnet18/34/50/100/200, iresnet10-narrow and iresnet18-narrow for CPUs, mobilefacenet",
    )
    embedding_size: int = Field(512, ge=2, le=8192, description="embedding dimensions D (2..8192)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer (0..1)")
    use_se: bool = Field(False, description="squeeze-and-excitation blocks in an IResNet")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="further settings of that backbone: layers, width, image_size, stem_stride, activation",
    )
    init_from: str = Field("", description="checkpoint whose backbone weights training starts from; empty: random")


class AugmentSettings(Section):
    """Augmentation of training images. RandAugment at 4 operations and magnitude 16 of 31 is the published setting."""

    flip: Fraction = Field(0.5, description="probability of a horizontal flip (0..1)")
    num_ops: Index = Field(4, description="RandAugment operations per image (0: none)")
    magnitude: float = Field(16, ge=0, le=31, description="RandAugment magnitude (0..31)")
    strength: Fraction = Field(
        1.0, description="factor on RandAugment's magnitude and all amplitudes at the end (0..1)"
    )
    strength_start: Fraction | None = Field(None, description="factor at the start; ramps linearly; unset: no ramp")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="chances of grayscale, shift_scale, color_jitter, gamma, blur, low_resolution, noise, cutout",
    )


class SslSettings(Section):
    """USynthFace's MoCo (arXiv 2211.07371)."""

    queue_size: Count = Field(32768, description="negatives kept in the queue, K (1 or more)")
    momentum: float = Field(0.999, ge=0, lt=1, description="momentum of the key encoder (0..1)")
    temperature: Positive = Field(0.07, description="softmax temperature T")
    margin: float = Field(0.1, ge=0, lt=2, description="margin taken from the positive cosine (0..2)")
    queue_policy: Literal["fifo", "replace_most_similar", "replace_least_similar"] = Field(
        "fifo", description="which queue entry a new key replaces once the queue is full"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="exclude_same_identity, batch_negatives, symmetric (true/false), projection_size",
    )
    pairs_per_identity: Count = Field(1, description="pairs drawn from each identity in one epoch (1 or more)")


class UnpgSettings(Section):
    """Margin softmax with unified negative pairs (UNPG, arXiv 2203.11593)."""

    head: Literal["arcface", "cosface", "magface"] = Field("arcface", description="margin head")
    scale: Positive = Field(64.0, description="logit scale s of ArcFace and CosFace")
    margin: NonNegative = Field(0.5, description="margin m: radians for ArcFace, cosine for CosFace")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="further settings of the head; ArcFace: gradient; MagFace: l_margin, u_margin, l_a, u_a, lambda_g",
    )
    wisk: NonNegative | None = Field(1.5, description="whisker of the noisy-negative filter; null: no pair negatives")
    shard_head: bool = Field(False, description="split class weights and their optimizer state over the workers")
    sample_rate: Fraction = Field(
        1.0, gt=0, description="share of the classes a row is compared with (Partial FC); below 1 needs shard_head"
    )
    triplet: NonNegative = Field(0, description="weight of a triplet term beside the head's loss (0: none)")
    contrastive: NonNegative = Field(0, description="weight of a contrastive term beside the head's loss (0: none)")


class TrainSettings(Section):
    """The training engine, common to both methods."""

    epochs: Count = Field(40, description="epochs (1 or more)")
    batch_size: Count = Field(128, description="samples per step on one worker (1 or more)")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd (momentum 0.9) or adamw")
    learning_rate: Positive = Field(0.1, description="peak rate for one batch of `learning_rate_batch` samples")
    learning_rate_batch: Index = Field(512, description="rate is multiplied by global batch / this (0: not scaled)")
    weight_decay: NonNegative = Field(5e-4, description="weight decay")
    schedule: Literal["cosine", "step", "plateau", "constant"] = Field("cosine", description="learning-rate schedule")
    warmup_epochs: NonNegative = Field(0, description="epochs of linear warm-up (fractions allowed)")
    step_epochs: list[int] = Field([8, 16, 24, 32], description="epochs after which `step` divides the rate by ten")
    plateau_patience: Count = Field(10, description="evaluations without gain before `plateau` divides the rate by ten")
    clip_norm: NonNegative = Field(0, description="largest gradient norm (0: no clipping)")
    precision: Literal["float32", "bfloat16"] = Field("bfloat16", description="autocast precision")
    channels_last: bool = Field(True, description="channels-last memory, faster with bfloat16")
    compile: bool = Field(False, description="torch.compile the backbone (pays off on GPUs)")
    workers: Count = Field(1, description="DDP workers")
    min_workers: Index = Field(
        0, description="go on with as few workers as this while nodes are missing (0: always with `workers`)"
    )
    cpus_per_worker: Positive = Field(1, description="CPUs reserved by a worker")
    threads: Index = Field(0, description="torch threads of a worker (0: its share of the cores, less one for readers)")
    use_gpu: bool = Field(False, description="a GPU for each worker")
    gpus_per_worker: Positive = Field(1, description="share of a GPU reserved by a worker: below 1, trials share one")
    selection: Literal["heldout", "sets", "last"] = Field(
        "heldout",
        description="best epoch by ROC-AUC on held-out synthetic pairs, by mean accuracy on `sets`, or the last",
    )
    sets: list[str] = Field([], description=".bin verification sets watched (and with selection=sets: chosen by)")
    evaluate_every: Count = Field(1, description="epochs between evaluations")
    patience: Index = Field(0, description="stop after this many evaluations without gain (0: never)")
    checkpoint_every: Index = Field(0, description="steps between checkpoints inside an epoch (0: only after epochs)")
    keep_checkpoints: Count = Field(2, description="checkpoints kept")
    max_failures: int = Field(3, ge=-1, description="worker failures survived before giving up (-1: unlimited)")
