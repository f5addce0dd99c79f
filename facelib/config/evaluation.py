"""Settings of using trained models: whitening, evaluation, embedding, export."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from facelib.config.fields import AutoFlip, Count, Flip, Fraction, Index, NonNegative, Positive, Section

WHITENED = "-whitened"  # end of the name of a checkpoint that the whiten job wrote, before its suffix


class EvaluateSettings(Section):
    """Evaluation of models on evaluation sets, by the protocol of each set."""

    models: list[str] = Field(
        ["ssl/model.pt"],
        description="checkpoints to evaluate: paths or URIs, or patterns such as ssl/training/* for all "
        "kept ones of a training; relative to `output`",
    )
    sets: list[str] = Field(
        ["heldout"],
        description="evaluation sets: heldout, name=path.bin, or name=protocol(option=value):path; protocols: pairs, "
        "groups, ijb, ijb-1n, kface-q1..4, and plug-ins",
    )
    published: Literal["none", "unpg", "usynthface", "insightface"] = Field(
        "none",
        description="evaluate by the rules of a publication: flip and pooling of each protocol, `accuracy_rule`, "
        "`far_rule`, pixels of checkpoints that do not state theirs; options of a set take precedence",
    )
    flip: AutoFlip = Field(
        "auto",
        description="embedding of the horizontally flipped face: sum (added), concat (the cosine of both, "
        "concatenated) or none; auto: as `published` has it, else sum; the option of a set takes precedence",
    )
    baselines: bool = Field(
        True, description="also evaluate the untrained network, raw and whitened pixels, and whitened LBP histograms"
    )
    baseline_images: Count = Field(8000, description="synthetic faces that the whitening is fitted on (1 or more)")
    pairs: Count = Field(3000, description="genuine pairs drawn from a face dataset, and as many impostor pairs")
    bootstrap: Index = Field(1000, description="bootstrap resamples for 95% confidence intervals (0: no intervals)")
    fars: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6], description="false accept rates (FAR) at which TAR is reported"
    )
    far_rule: Literal["auto", "strict", "nearest"] = Field(
        "auto",
        description="threshold at a FAR: strict (the FAR never exceeds the target) or nearest (as in published "
        "tables); auto: as `published` has it, else strict",
    )
    accuracy_rule: Literal["auto", "kfold", "best_threshold"] = Field(
        "auto",
        description="accuracy on pairs: kfold (the threshold of each fold is chosen on the others) or best_threshold "
        "(one, chosen on the same pairs, as in UNPG's tables); auto: as `published` has it, else kfold",
    )
    ranks: list[Count] = Field([1, 5, 10], description="ranks of 1:N identification (1 or more)")
    fpirs: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [1e-1, 1e-2], description="false positive identification rates of 1:N search (between 0 and 1)"
    )
    threshold_set: str = Field(
        "", description="name of the set whose thresholds at `fars` are applied to all other sets; empty: none"
    )
    figures: bool = Field(True, description="draw curves, score histograms, the hardest pairs and embedding maps")
    score_files: Literal["none", "similarity", "distance"] = Field(
        "none",
        description="scores of all pairs in files below evaluation/scores, <set>_genuines.txt and _impostors.txt: "
        "cosines (similarity), or squared L2 distances as USynthFace writes them (distance)",
    )
    batch_size: Count = Field(256, description="images per forward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of the forward pass")
    actors: Count = Field(1, description="embedding actors, shared by all models and sets")
    decoders: Count = Field(2, description="batches that an actor reads and decodes ahead of the forward pass")
    cpus_per_actor: Positive = Field(1, description="CPUs reserved per embedding actor")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per embedding actor")
    cache: bool = Field(True, description="cache embeddings in <output>/evaluation/embeddings")


class WhitenSettings(Section):
    """Within-class whitening of trained models by synthetic faces: `<model>-whitened.pt` beside each."""

    models: list[str] = Field(["ssl/model.pt"], description="checkpoints: paths or URIs; relative to `output`")
    faces: str = Field(
        "faces", description="face dataset with several images of each identity; path or URI, relative to `output`"
    )
    images: Count = Field(6000, description="images of it that the whitening is fitted on, spread over the dataset")
    shrinkage: Annotated[float, Field(gt=0, le=1)] = Field(
        0.02, description="share of the mean variance in the within-class covariance; 1 changes no direction"
    )
    actors: Count = Field(1, description="embedding actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per embedding actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per embedding actor (fractions allowed)")

    @staticmethod
    def target(model: str) -> str:
        """Where the whitened network of a checkpoint is written: `ssl/model.pt` → `ssl/model-whitened.pt`."""
        folder, slash, name = model.rpartition("/")
        return f"{folder}{slash}{PurePosixPath(name).stem}{WHITENED}.pt"


class EmbedSettings(Section):
    """Embeddings of a face dataset or a folder of images."""

    model: str = Field("ssl/model.pt", description="checkpoint: path or URI; relative to `output`")
    input: str = Field("faces", description="face dataset, or folder of images with subfolders; relative to `output`")
    folder: str = Field("embeddings", description="output folder of the Parquet files; relative to `output`")
    aligned: bool = Field(
        False, description="true: the images of a folder are aligned crops; false: detect and align faces (`align`)"
    )
    flip: Flip = Field(
        "sum",
        description="embedding of the horizontally flipped face: sum (added), concat (appended) or none",
    )
    normalize: bool = Field(True, description="L2-normalize the embeddings")
    images_per_part: Count = Field(8192, description="images per part file, the unit of resuming")
    images_per_task: Count = Field(256, description="images that an actor reads and embeds at once")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of the forward pass")
    actors: Count = Field(1, description="embedding actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per embedding actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per embedding actor (fractions allowed)")


class ExportSettings(Section):
    """Export of a model: ONNX, and an MLflow model that maps images to embeddings."""

    model: str = Field("ssl/model.pt", description="checkpoint: path or URI; relative to `output`")
    folder: str = Field("export", description="output folder; relative to `output`")
    mlflow: bool = Field(True, description="also write the MLflow model, which includes the detector of `align`")
    tolerance: Fraction = Field(
        1e-4, description="largest allowed difference from PyTorch, relative to the largest embedding value"
    )
