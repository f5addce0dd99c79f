"""The settings tree: all sections, and what must hold between them."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from facelib.config.evaluation import EmbedSettings, EvaluateSettings, ExportSettings
from facelib.config.faces import AlignSettings, GenerateSettings
from facelib.config.fields import Index
from facelib.config.inspection import InspectSettings
from facelib.config.running import RaySettings, StageSettings, TrackingSettings
from facelib.config.sources import ImportSettings
from facelib.config.training import (
    AugmentSettings,
    DataSettings,
    ModelSettings,
    SslSettings,
    TrainSettings,
    UnpgSettings,
)
from facelib.config.tuning import TuneSettings


class Settings(BaseSettings):
    """Everything a facelib job can be told."""

    model_config = SettingsConfigDict(extra="forbid", protected_namespaces=(), cli_prog_name="facelib job")

    name: str = Field("facelib", description="name of the run in MLflow")
    seed: Index = Field(0, description="seed of identities, initial weights, batches and augmentation")
    output: str = Field("runs/facelib", description="folder or URI everything is written below")
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    align: AlignSettings = Field(default_factory=AlignSettings)
    import_data: ImportSettings = Field(default_factory=ImportSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    ssl: SslSettings = Field(default_factory=SslSettings)
    unpg: UnpgSettings = Field(default_factory=UnpgSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    embed: EmbedSettings = Field(default_factory=EmbedSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    inspect: InspectSettings = Field(default_factory=InspectSettings)
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
    def _refuse_credentials(self) -> "Settings":
        """Settings are kept beside results and in MLflow, where everybody reads them."""
        for name, value in _texts(self.model_dump(mode="json")):
            if re.search(r"://[^/@\s]*:[^/@\s]*@", value):
                raise ValueError(
                    f"{name}: holds a password. Leave it out of the address; storage and MLflow read theirs from the "
                    "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, MLFLOW_TRACKING_USERNAME, …)"
                )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        train = self.train
        if train.selection == "sets" and not train.sets:
            raise ValueError("train.selection=sets needs train.sets: name at least one .bin file")
        if train.selection == "heldout" and not self.data.heldout:
            raise ValueError("train.selection=heldout needs data.heldout: name a dataset, or use selection=last")
        if train.schedule == "plateau" and train.selection == "last":
            raise ValueError("train.schedule=plateau needs a metric: train.selection must be heldout or sets")
        if train.min_workers > train.workers:
            raise ValueError(f"train.min_workers={train.min_workers} must not exceed train.workers={train.workers}")
        if train.warmup_epochs >= train.epochs:
            raise ValueError(f"train.warmup_epochs={train.warmup_epochs} must be less than train.epochs={train.epochs}")
        if self.unpg.sample_rate < 1 and not self.unpg.shard_head:
            raise ValueError(f"unpg.sample_rate={self.unpg.sample_rate} needs unpg.shard_head=true")
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


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree, with its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
