"""The settings tree: one typed place for everything a job can be told.

A job reads a YAML file and flags over it; every field has a flag, `--section.field value`. Unknown names, wrong types
and impossible combinations are errors that name the field, before anything starts.
"""

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each field, what was wrong and what to do."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class GenerateSettings(Section):
    """Synthetic identities and their images."""

    generator: str = Field(
        "morphable",
        description="generator: morphable, discofacegan (needs weights), folder (finished pictures), or a plug-in",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that generator")
    identities: Count = Field(1000, description="identities in the training dataset (1 or more)")
    images_per_identity: Count = Field(8, description="images made of each identity (1 or more)")
    first_identity: Index = Field(0, description="number of the first identity; ranges that overlap repeat people")
    heldout_identities: Index = Field(
        200, description="identities of a second dataset that training never sees (0: none); numbered from 2^40 on"
    )
    identities_per_part: Count = Field(64, description="identities in one part file, the unit of resuming")
    identities_per_task: Count = Field(8, description="identities rendered by one task; bounds memory in flight")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of stored faces (1..100)")
    actors: Count = Field(2, description="generator actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved by a generator actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by a generator actor (fractions allowed)")


class AlignSettings(Section):
    """Detection and alignment to the training crop."""

    detector: str = Field("retinaface", description="retinaface, or mtcnn (needs the tensorflow extra)")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that detector")
    template: str = Field("arcface", description="five-point template: arcface, or arcface-96 (8 px to the left)")
    size: int = Field(112, ge=32, le=512, description="side of the aligned face, pixels (32..512)")
    min_score: Fraction = Field(0.8, description="detections below this score are rejected (0..1)")
    actors: Count = Field(1, description="aligner actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved by an aligner actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an aligner actor (fractions allowed)")


class DataSettings(Section):
    """Where training reads faces from, and how."""

    dataset: str = Field("faces", description="face dataset to train on: a path or URI; relative to `output`")
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
        description="chances of grayscale, shift_scale, colour_jitter, gamma, blur, low_resolution, noise, cutout",
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
    cpus_per_worker: Positive = Field(1, description="CPUs reserved by a worker")
    threads: Index = Field(0, description="torch threads of a worker (0: its share of the cores, less one for readers)")
    use_gpu: bool = Field(False, description="one GPU for each worker")
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


class EvaluateSettings(Section):
    """Verification of models on sets of pairs."""

    models: list[str] = Field(["ssl/model.pt"], description="checkpoints to judge; relative to `output`")
    sets: list[str] = Field(["heldout"], description="`heldout`, or .bin files, or name=path.bin")
    flip: bool = Field(True, description="add the embedding of the mirrored face")
    baselines: bool = Field(True, description="also judge the untrained network, raw and whitened pixels")
    baseline_images: Count = Field(8000, description="synthetic faces the whitening is fitted on (1 or more)")
    pairs: Count = Field(3000, description="genuine, and as many impostor, pairs drawn from the held-out dataset")
    bootstrap: Index = Field(1000, description="resamples for 95 % intervals (0: none)")
    fars: list[float] = Field([1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6], description="false accept rates to report TAR at")
    batch_size: Count = Field(256, description="images per forward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of embedding")
    actors: Count = Field(1, description="embedding actors")
    cpus_per_actor: Positive = Field(1, description="CPUs reserved by an embedding actor")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an embedding actor")


class TrackingSettings(Section):
    """MLflow."""

    uri: str = Field("", description="tracking URI; empty: MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db")
    experiment: str = Field("facelib", description="experiment name")
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use")


class RaySettings(Section):
    """The Ray cluster a job runs on."""

    address: str = Field("", description="cluster to join; empty: RAY_ADDRESS, else a new local one")
    object_store_gb: NonNegative = Field(0, description="object store of a new local cluster, GB (0: Ray's choice)")
    no_progress_minutes: Positive = Field(10, description="a data stream without progress for this long is an error")


class StageSettings(Section):
    """One stage of a pipeline: a job and what is set for it."""

    job: Literal["generate", "train_ssl", "train_unpg", "evaluate"] = Field(description="job to run")
    name: str = Field("", description="name in tables and MLflow; default: the job's")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted settings for this stage only")


class Settings(BaseSettings):
    """Everything a facelib job can be told."""

    model_config = SettingsConfigDict(extra="forbid", protected_namespaces=(), cli_prog_name="facelib job")

    name: str = Field("facelib", description="name of the run in MLflow")
    seed: Index = Field(0, description="seed of identities, initial weights, batches and augmentation")
    output: str = Field("runs/facelib", description="folder or URI everything is written below")
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    align: AlignSettings = Field(default_factory=AlignSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    ssl: SslSettings = Field(default_factory=SslSettings)
    unpg: UnpgSettings = Field(default_factory=UnpgSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    ray: RaySettings = Field(default_factory=RaySettings)
    stages: list[StageSettings] = Field([], description="stages of ray_jobs.pipeline, in order")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the file and the flags count: an environment variable named `SEED` must not change a result."""
        return (init_settings,)

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        train = self.train
        if train.selection == "sets" and not train.sets:
            raise ValueError("train.selection=sets needs train.sets: name at least one .bin file")
        if train.selection == "heldout" and not self.data.heldout:
            raise ValueError("train.selection=heldout needs data.heldout: name a dataset, or use selection=last")
        if train.schedule == "plateau" and train.selection == "last":
            raise ValueError("train.schedule=plateau needs a metric: train.selection must be heldout or sets")
        if train.warmup_epochs >= train.epochs:
            raise ValueError(f"train.warmup_epochs={train.warmup_epochs} must be less than train.epochs={train.epochs}")
        if self.generate.heldout_identities == 1:
            raise ValueError("generate.heldout_identities=1 gives no impostor pairs: use 0, or 2 and more")
        return self

    def path(self, value: str) -> str:
        """`value` below `output`, unless it is absolute or a URI."""
        if "://" in value or value.startswith("/"):
            return value
        output = self.output if "://" in self.output else str(Path(self.output).absolute())
        return f"{output.rstrip('/')}/{value}"

    def fingerprint(self, *sections: str) -> str:
        """Short hash of some sections (and the seed), equal only if they are equal."""
        tree = self.model_dump(mode="json")
        chosen = {name: tree[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def load_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `"section.field=value"` strings, or flags as on a command line (`"--section.field"`, `"value"`).

    Raises:
        SettingsError: names the file, every bad field, its value and what to do.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
        except yaml.YAMLError as error:
            raise SettingsError(f"{path}: is no YAML ({error})") from None
        if not isinstance(tree, dict):
            raise SettingsError(f"{path}: must be a mapping of sections, not {type(tree).__name__}")
    # A value may hold "=" itself; only the name of a setting before it makes the word an override.
    arguments = [f"--{o}" if re.match(r"[a-z_]+(\.[a-z_]+)?=", str(o)) else str(o) for o in overrides]
    return build_settings(tree, arguments, str(path) if path else "settings")


def build_settings(tree: dict[str, Any], arguments: Sequence[str] = (), origin: str = "settings") -> Settings:
    """Settings of a tree, as a file holds it, with flags over it.

    `SettingsError` names `origin` and every bad field.
    """
    flags = [a.split("=")[0][2:] for a in arguments if a.startswith("--")]
    for flag in flags:
        if flag not in _known_flags():
            raise SettingsError(f"--{flag}: unknown setting{_suggest(flag)}")
    try:
        source: Any = CliSettingsSource(
            Settings, cli_parse_args=list(arguments), cli_exit_on_error=False, cli_prog_name="facelib"
        )
        return Settings(**_merge(tree, source()))
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise SettingsError(f"{origin}: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)) from None
    except Exception as error:  # pydantic-settings and argparse raise several kinds for a malformed flag
        raise SettingsError(f"{origin}: {error}") from None


def parse_command_line(job: str, description: str, argv: Sequence[str] | None = None) -> Settings:
    """Settings of a job from its command line: `--config file.yaml [--section.field value …]`.

    `--help` prints every field. On a mistake it prints what is wrong and exits with status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: python -m ray_jobs.{job} [--config FILE.yaml] [--section.field VALUE …]\n\n{description}\n")
        print(describe_settings())
        raise SystemExit(0)
    path, rest = None, []
    while arguments:
        word = arguments.pop(0)
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or (arguments.pop(0) if arguments else "")
        else:
            rest.append(word)
    try:
        return load_settings(path, rest)
    except SettingsError as error:
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def describe_settings() -> str:
    """One line for each field: flag, type, default, meaning with unit and range."""
    lines = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            lines += ["", f"{name}: {(section.__doc__ or '').strip()}"]
            lines += [_describe(f"{name}.{key}", f) for key, f in section.model_fields.items()]
        else:
            lines.append(_describe(name, field))
    return "\n".join(lines)


def _describe(flag: str, field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    kind = _kind(field.annotation)
    return f"  --{flag:<32} {field.description} ({kind}) [{json.dumps(default, default=str)}]"


def _kind(annotation: Any) -> str:
    """What may be given, as a reader of --help wants it: choices, or a plain type's name."""
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is dict:
        return 'JSON, {"name": value}'
    if get_origin(annotation) is list:
        return 'JSON, ["a", "b"]'
    members = [a for a in get_args(annotation) if a is not type(None)] or [annotation]
    names = {int: "whole number", float: "number", bool: "true | false", str: "text"}
    word = names.get(members[0], "number")
    return f"{word} | null" if type(None) in get_args(annotation) else word


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key in Settings.model_fields:
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _known_flags() -> list[str]:
    flags = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        is_section = isinstance(section, type) and issubclass(section, Section)
        flags += [f"{name}.{key}" for key in section.model_fields] if is_section else [name]  # type: ignore[union-attr]
    return flags


def _suggest(flag: str) -> str:
    near = difflib.get_close_matches(flag, _known_flags(), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else " (--help lists all)"


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting{_suggest(name)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, got {error['input']!r}" if name else message
