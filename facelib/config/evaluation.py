"""Settings of judging models."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, Index, NonNegative, Positive, Section


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
