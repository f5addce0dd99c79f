"""Settings of judging models, and of handing them out: evaluation, embedding, export."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Positive, Section


class EvaluateSettings(Section):
    """Models on evaluation sets, by the sets' protocols."""

    models: list[str] = Field(["ssl/model.pt"], description="checkpoints to judge, paths or URIs; relative to `output`")
    sets: list[str] = Field(
        ["heldout"],
        description="`heldout`, or name=path.bin, or name=protocol(option=value):path; protocols: pairs, groups, ijb, "
        "ijb-1n, kface-q1..4, and those that are registered",
    )
    flip: bool = Field(True, description="add the embedding of the mirrored face; a set's own option wins")
    baselines: bool = Field(True, description="also judge the untrained network, raw and whitened pixels")
    baseline_images: Count = Field(8000, description="synthetic faces the whitening is fitted on (1 or more)")
    pairs: Count = Field(3000, description="genuine, and as many impostor, pairs drawn from a face dataset")
    bootstrap: Index = Field(1000, description="resamples for 95 % intervals (0: none)")
    fars: list[float] = Field([1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6], description="false accept rates to report TAR at")
    far_rule: Literal["strict", "nearest"] = Field(
        "strict", description="TAR with FAR never above the target, or at the nearest FAR as published tables have it"
    )
    ranks: list[int] = Field([1, 5, 10], description="ranks of 1:N identification (1 or more)")
    fpirs: list[float] = Field([1e-1, 1e-2], description="false positive identification rates (between 0 and 1)")
    threshold_set: str = Field(
        "", description="name of the set whose thresholds at `fars` are applied to all other sets; empty: none"
    )
    batch_size: Count = Field(256, description="images per forward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of embedding")
    actors: Count = Field(1, description="embedding actors, shared by all models and sets")
    decoders: Count = Field(2, description="batches an actor reads and decodes while its network runs")
    cpus_per_actor: Positive = Field(1, description="CPUs reserved by an embedding actor")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an embedding actor")
    cache: bool = Field(True, description="keep embeddings below <output>/evaluation/embeddings and use them again")


class EmbedSettings(Section):
    """Embeddings of any pictures."""

    model: str = Field("ssl/model.pt", description="checkpoint, path or URI; relative to `output`")
    input: str = Field("faces", description="face dataset, or folder of pictures with subfolders; relative to `output`")
    folder: str = Field("embeddings", description="where Parquet files go; relative to `output`")
    aligned: bool = Field(False, description="pictures of a folder are crops already; else `align` finds the faces")
    flip: bool = Field(True, description="add the embedding of the mirrored face")
    normalize: bool = Field(True, description="bring embeddings to length 1")
    images_per_part: Count = Field(8192, description="pictures in one part file, the unit of resuming")
    images_per_task: Count = Field(256, description="pictures read and embedded at once by an actor")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision")
    actors: Count = Field(1, description="embedding actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved by an actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an actor (fractions allowed)")


class ExportSettings(Section):
    """A model for others to run: ONNX, and an MLflow model from pictures to embeddings."""

    model: str = Field("ssl/model.pt", description="checkpoint, path or URI; relative to `output`")
    folder: str = Field("export", description="where the files go; relative to `output`")
    mlflow: bool = Field(True, description="write the MLflow model too, with the detector of `align` in it")
    tolerance: Fraction = Field(
        1e-4, description="largest difference from PyTorch allowed, as a share of the largest embedding value"
    )
