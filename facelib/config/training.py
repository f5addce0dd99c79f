"""Settings of training: data, backbone, augmentation, the two methods, and the trainer that they share."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import MAX_INT, AutoFlip, Count, Fraction, Index, NonNegative, Options, Positive, Section


class DataSettings(Section):
    """Training and held-out datasets, and how they are read."""

    dataset: str = Field("faces", description="face dataset to train on: path or URI; relative to `output`")
    stream: bool = Field(
        False,
        description="generate the faces while training, with the settings of `generate` and `align`: new ones every "
        "epoch, none stored",
    )
    identities: Index = Field(0, description="train on the first identities of the dataset only (0: all)")
    images_per_identity: Index = Field(0, description="train on the first images of every identity only (0: all)")
    heldout: str = Field(
        "heldout", description="face dataset for model selection: path or URI; relative to `output`; empty: none"
    )
    window_row_groups: Count = Field(
        32, description="row groups per shuffle window; larger windows shuffle better and need more memory"
    )
    readers: Count = Field(2, description="shuffle windows that each training worker reads ahead")
    read_ahead: Index = Field(
        0,
        description="batches buffered per window (0: the whole window, up to 0.5 GiB); fewer need less memory, but "
        "readers then wait for each other",
    )
    cache_dir: str = Field(
        "", description="folder on every node's own disk that keeps copies of a remote dataset's parts; empty: none"
    )
    cache_gb: Positive = Field(100, description="GB that those copies may take on a node")
    cpus_per_reader: Positive = Field(0.25, description="CPUs reserved per reading task (fractions allowed)")


class ModelSettings(Section):
    """The backbone (embedding network)."""

    name: str = Field(
        "iresnet50",
        description="backbone: iresnet18/34/50/100/200, iresnet10-narrow and iresnet18-narrow for CPUs, mobilefacenet, "
        "mbf, mbf-large, vit-t/s/b/l (arcface_torch's), or a plug-in",
    )
    embedding_size: int = Field(512, ge=2, le=8192, description="embedding dimensions D (2..8192)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer (0..1)")
    use_se: bool = Field(False, description="squeeze-and-excitation blocks in an IResNet")
    options: Options = Field(
        default_factory=dict,
        description="keyword arguments of the backbone: layers, width, image_size, stem_stride, activation, "
        "weight_init, train_scale",
    )
    normalization: Literal["auto", "symmetric", "imagenet", "unit_bgr"] = Field(
        "auto",
        description="pixels that the network is trained on: symmetric ([-1, 1]), imagenet (ImageNet's mean and "
        "standard deviation), unit_bgr ([0, 1], blue first); auto: those of `init_from`, else symmetric. In other "
        "jobs: those of a checkpoint that does not state them",
    )
    init_from: str = Field(
        "", description="checkpoint with the initial backbone weights: path or URI; relative to `output`; empty: random"
    )


class AugmentSettings(Section):
    """Augmentation of training images. Published: RandAugment with 4 operations and magnitude 16 of 30."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="where images are decoded and augmented: in the reading tasks (cpu), or beside and on the "
        "trainer's GPU (cuda); auto: cuda if it has one",
    )
    decoder: Literal["cpu", "nvjpeg"] = Field(
        "cpu",
        description="augmentation on a GPU: JPEG decoded by threads on the CPU, or by nvJPEG on the GPU, whose pixels "
        "may differ by a few levels",
    )
    policy: Literal["randaugment", "moco_v1", "moco_v2", "torchvision_randaugment"] = Field(
        "randaugment",
        description="randaugment (USynthFace's, with the settings below); or by torchvision, on CPUs: moco_v1, moco_v2 "
        "(crops, color jitter, grayscale, blur), torchvision_randaugment (its own operations)",
    )
    flip: Fraction = Field(0.5, description="probability of a horizontal flip (0..1)")
    num_ops: int = Field(4, ge=0, le=64, description="RandAugment operations per image (0: none)")
    magnitude: float = Field(16, ge=0, le=30, description="RandAugment magnitude (0..30)")
    operations: list[str] | None = Field(
        None,
        description="RandAugment's operations; null: USynthFace's Identity, ShearX, TranslateX, Rotate, Brightness, "
        "Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast, Equalize, Grayscale. There are also ShearY, "
        "TranslateY, Invert",
    )
    strength: Fraction = Field(
        1.0, description="factor on RandAugment's magnitude and on all amplitudes at the end of training (0..1)"
    )
    strength_start: Fraction | None = Field(
        None, description="the same factor at the start of training, ramped linearly (0..1); null: constant `strength`"
    )
    options: Options = Field(
        default_factory=dict,
        description="probability of each further augmentation: grayscale, shift_scale, color_jitter, gamma, blur, "
        "low_resolution, noise, cutout, random_resized_crop",
    )


class SslSettings(Section):
    """Label-free training: USynthFace's MoCo (arXiv 2211.07371)."""

    queue_size: Count = Field(32768, description="negatives in the queue, K (1 or more)")
    momentum: float = Field(0.999, ge=0, lt=1, description="momentum of the key encoder (0..1)")
    temperature: Positive = Field(0.07, description="softmax temperature T")
    margin: float = Field(0.1, ge=0, lt=2, description="margin subtracted from the positive cosine similarity (0..2)")
    queue_policy: Literal["fifo", "replace_most_similar", "replace_least_similar"] = Field(
        "fifo", description="queue entry that a new key replaces once the queue is full"
    )
    options: Options = Field(
        default_factory=dict,
        description="further arguments of MoCo: exclude_same_identity, batch_negatives, symmetric (true or false), "
        "projection_size",
    )
    pairs_per_identity: Count = Field(1, description="positive pairs drawn per identity and epoch (1 or more)")
    epochs_per_pass: Count = Field(
        1,
        description="epochs in which every identity is read once, for the pairs of all of them: fewer bytes are read "
        "(1: every identity in every epoch)",
    )


class UnpgSettings(Section):
    """Supervised training: margin softmax with unified negative pair generation (UNPG, arXiv 2203.11593)."""

    head: Literal["arcface", "cosface", "magface"] = Field("arcface", description="margin softmax head")
    scale: Positive = Field(64.0, description="logit scale s")
    margin: NonNegative = Field(0.5, description="margin m: radians for ArcFace, cosine similarity for CosFace")
    options: Options = Field(
        default_factory=dict,
        description="further arguments of the head: weight_init (normal, xavier, unit); gradient (ArcFace); l_margin, "
        "u_margin, l_a, u_a, lambda_g, easy_margin (MagFace)",
    )
    wisk: NonNegative | None = Field(
        1.5,
        description="whisker of the filter that drops noisy negative pairs; null: no pair negatives (plain margin "
        "softmax)",
    )
    shard_head: bool = Field(False, description="shard the class weights and their optimizer state over the workers")
    sample_rate: Fraction = Field(
        1.0, gt=0, description="fraction of the classes sampled per step (Partial FC); below 1 needs shard_head"
    )
    triplet: NonNegative = Field(0, description="weight of an additional triplet loss (0: none)")
    contrastive: NonNegative = Field(0, description="weight of an additional contrastive loss (0: none)")


class TrainSettings(Section):
    """Optimization, distribution, model selection and checkpoints, for both methods."""

    epochs: Count = Field(40, description="epochs (1 or more)")
    continue_from: str = Field(
        "",
        description="checkpoint of a published training to continue, with its queue and key encoder (USynthFace, "
        "MoCo) or head (UNPG) and its momentum where the file holds it: path or URI; relative to `output`; empty: none",
    )
    continue_epoch: Index | None = Field(
        None, description="epochs that `continue_from` was trained; null: as the file or its name says"
    )
    extend: bool = Field(
        False,
        description="go on to more `epochs` than a training was begun with although its schedule depends on their "
        "number; constant, step and plateau schedules go on without it",
    )
    batch_size: Count = Field(128, description="samples per step and worker (1 or more)")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimizer: sgd (momentum 0.9) or adamw")
    learning_rate: Positive = Field(
        0.1, description="peak learning rate for a global batch of `learning_rate_batch` samples"
    )
    learning_rate_batch: Index = Field(
        512, description="the learning rate is scaled by global batch size / this (0: not scaled)"
    )
    weight_decay: NonNegative = Field(5e-4, description="weight decay")
    schedule: Literal["cosine", "poly", "step", "plateau", "constant"] = Field(
        "cosine", description="learning-rate schedule; poly: quadratic to 0, as arcface_torch"
    )
    warmup_epochs: NonNegative = Field(0, description="epochs of linear warmup (fractions allowed)")
    step_epochs: list[Count] = Field(
        [8, 16, 24, 32], description="schedule=step: epochs after which the learning rate is divided by 10"
    )
    plateau_patience: Count = Field(
        10, description="schedule=plateau: evaluations without improvement before the learning rate is divided by 10"
    )
    plateau_threshold: NonNegative = Field(
        1e-4, description="schedule=plateau: relative increase of the metric that counts as an improvement"
    )
    plateau_cooldown: Index = Field(
        0, description="schedule=plateau: evaluations after a division that do not count as without improvement"
    )
    clip_norm: NonNegative = Field(0, description="maximum gradient norm (0: no clipping)")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="autocast precision; float16 with gradient scaling, for GPUs without bfloat16"
    )
    channels_last: bool = Field(True, description="channels-last memory format; faster with bfloat16")
    tf32: bool = Field(
        False, description="GPUs: float32 convolutions and matrix products in TF32 (10 of 23 bits of mantissa); faster"
    )
    cudnn_benchmark: bool = Field(True, description="GPUs: cuDNN tries its algorithms in the first steps")
    compile: bool = Field(False, description="torch.compile the encoders (worthwhile on GPUs)")
    workers: Count = Field(1, description="data-parallel (DDP) workers")
    min_workers: Index = Field(
        0, description="elastic training: continue with this many workers while nodes are missing (0: always `workers`)"
    )
    gradient_compression: Literal["none", "bfloat16"] = Field(
        "none", description="gradients between workers in bfloat16: half the bytes, for workers on several nodes"
    )
    cpus_per_worker: Positive = Field(1, description="CPUs reserved per worker (fractions allowed)")
    threads: Index = Field(
        0, description="torch threads per worker (0: the worker's share of the cores, minus one for data loading)"
    )
    use_gpu: bool = Field(False, description="train on GPUs")
    gpus_per_worker: Positive = Field(
        1,
        description="GPUs reserved per worker; below 1 (with workers=1), several trials of a sweep share a GPU",
    )
    selection: Literal["heldout", "sets", "last"] = Field(
        "heldout",
        description="best epoch by ROC AUC on held-out synthetic pairs (heldout), by the mean of `selection_metric` "
        "on `sets`, or the last epoch",
    )
    sets: list[str] = Field(
        [],
        description="evaluation sets watched during training, as `evaluate.sets`: .bin files, K-FACE, IJB; "
        "selection=sets selects by them",
    )
    selection_sets: list[str] = Field(
        [], description="names of those `sets` that select the epoch, by their mean (empty: all)"
    )
    selection_metric: str = Field(
        "auto",
        pattern=r"^(auto|accuracy|auc|tar_at_far_[0-9.e-]+|rank_\d+|tpir_at_fpir_[0-9.e-]+)$",
        description="metric that selects the epoch: accuracy, auc, tar_at_far_0.001 (a FAR of `evaluate.fars`) and the "
        "like; auto: of each set accuracy, or else TAR at FAR 0.001, or else rank 1",
    )
    flip: AutoFlip = Field(
        "none",
        description="embedding of the flipped face on `sets`: none (half the time), sum, concat; auto: as `evaluate` "
        "has it; the option of a set takes precedence",
    )
    evaluate_every: Count = Field(1, description="epochs between evaluations")
    evaluate_every_steps: Index = Field(0, description="steps between evaluations within an epoch (0: none)")
    log_every: Index = Field(
        100, description="steps between log lines, and points in MLflow, within an epoch (0: only after epochs)"
    )
    patience: Index = Field(0, description="stop after this many evaluations without improvement (0: never)")
    checkpoint_every: Index = Field(0, description="steps between checkpoints within an epoch (0: only after epochs)")
    checkpoint_seconds: NonNegative = Field(
        0,
        description="least seconds between checkpoints, but for the last; for epochs of seconds (0: after every epoch)",
    )
    keep_checkpoints: Count = Field(2, description="checkpoints kept")
    max_failures: int = Field(
        3, ge=-1, le=MAX_INT, description="worker failures tolerated before the job fails (-1: unlimited)"
    )
