"""The settings tree: all sections, and constraints between them."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from facelib.config.evaluation import EmbedSettings, EvaluateSettings, ExportSettings, WhitenSettings
from facelib.config.exporting import ExportImagesSettings
from facelib.config.fields import Section, Seed
from facelib.config.generation import AlignSettings, GenerateSettings
from facelib.config.importing import ImportSettings
from facelib.config.inspection import InspectSettings
from facelib.config.runtime import RaySettings, StageSettings, TrackingSettings
from facelib.config.training import (
    AugmentSettings,
    DataSettings,
    ModelSettings,
    SslSettings,
    TrainSettings,
    UnpgSettings,
)
from facelib.config.tuning import TuneSettings


class Settings(Section):
    """All settings of all jobs. Only files and flags set them, never environment variables."""

    name: str = Field("facelib", description="name of the MLflow run")
    seed: Seed = Field(0, description="random seed of identities, initial weights, batches and augmentation")
    output: str = Field("runs/facelib", description="output folder or URI of everything that jobs write")
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    align: AlignSettings = Field(default_factory=AlignSettings)
    import_data: ImportSettings = Field(default_factory=ImportSettings)
    export_images: ExportImagesSettings = Field(default_factory=ExportImagesSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    ssl: SslSettings = Field(default_factory=SslSettings)
    unpg: UnpgSettings = Field(default_factory=UnpgSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    whiten: WhitenSettings = Field(default_factory=WhitenSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    embed: EmbedSettings = Field(default_factory=EmbedSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    inspect: InspectSettings = Field(default_factory=InspectSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    ray: RaySettings = Field(default_factory=RaySettings)
    stages: list[StageSettings] = Field(
        [], description="stages of `pipeline`, in order: {job, name, set}; `set` overrides settings for that stage"
    )

    @model_validator(mode="before")
    @classmethod
    def _expand_home(cls, tree: Any) -> Any:
        """`~/x` is a path below the home folder: in files, and in `--output=~/x`, which no shell expands."""
        return _expanded(tree)

    @model_validator(mode="after")
    def _refuse_credentials(self) -> "Settings":
        """Refuse passwords: settings are stored next to results and in MLflow, readable by others."""
        for name, value in _strings(self.model_dump(mode="json")):
            if re.search(r"://[^/@\s]*:[^/@\s]*@", value):
                raise ValueError(
                    f"{name}: contains a password. Remove it from the address; storage and MLflow read credentials "
                    "from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, MLFLOW_TRACKING_USERNAME)"
                )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        train = self.train
        if train.selection == "sets" and not train.sets:
            raise ValueError("train.selection=sets needs train.sets: list at least one .bin file")
        if train.selection == "heldout" and not self.data.heldout:
            raise ValueError("train.selection=heldout needs data.heldout: set it, or use train.selection=last")
        if train.schedule == "plateau" and train.selection == "last":
            raise ValueError("train.schedule=plateau needs a metric: set train.selection to heldout or sets")
        if train.min_workers > train.workers:
            raise ValueError(f"train.min_workers={train.min_workers} must not exceed train.workers={train.workers}")
        if train.warmup_epochs >= train.epochs:
            raise ValueError(f"train.warmup_epochs={train.warmup_epochs} must be less than train.epochs={train.epochs}")
        if self.unpg.sample_rate < 1 and not self.unpg.shard_head:
            raise ValueError(f"unpg.sample_rate={self.unpg.sample_rate} needs unpg.shard_head=true")
        if self.data.stream and (self.data.identities or self.data.images_per_identity):
            raise ValueError(
                "data.identities, data.images_per_identity: limits of a stored dataset; with data.stream set "
                "generate.identities and generate.images_per_identity"
            )
        if self.generate.heldout_identities == 1:
            raise ValueError("generate.heldout_identities=1 gives no impostor pairs: use 0, or at least 2")
        return self

    def path(self, value: str) -> str:
        """Resolve a path setting: relative to `output`, unless it is absolute or a URI.

        `output` itself is relative to FACELIB_HOME, or else to the working directory. `../other/faces` is beside it,
        also where it does not exist yet.
        """
        if "://" in value or value.startswith("/"):
            return value
        output = self.output if "://" in self.output else str(home_folder() / self.output)
        output = output.rstrip("/")
        while value.startswith("../") and "/" in output.rpartition("://")[2]:
            output, value = output.rpartition("/")[0], value.removeprefix("../")
        return f"{output}/{value}"

    def fingerprint(self, *sections: str) -> str:
        """Short hash of the seed and the given sections."""
        tree = self.model_dump(mode="json")
        hashed = {name: tree[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]


def _expanded(value: Any) -> Any:
    """A tree with `~/` in place of the home folder at the start of a string, or of a path in the name of a set."""
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    if not isinstance(value, str) or "~/" not in value:
        return value
    return re.sub(r"(?:^|(?<=[=:+]))~(?=/)", lambda _: os.path.expanduser("~"), value)


def home_folder() -> Path:
    """The folder that a relative `output` and the default MLflow store are in: FACELIB_HOME, or the working directory.

    It says where results are, not what they are: like TMPDIR it is no setting.
    """
    return Path(os.environ.get("FACELIB_HOME") or ".").expanduser().absolute()


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, string) for every string in a tree."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, name)
