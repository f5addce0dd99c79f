"""Settings of inspecting face datasets."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, NonNegative, Positive, Section


class InspectSettings(Section):
    """Statistics of face datasets, side by side."""

    sets: list[str] = Field(
        ["faces"],
        description="face datasets (relative to `output`) or .bin files; name=path sets the name in the report",
    )
    model: str = Field(
        "",
        description="checkpoint for identity statistics: path or URI; relative to `output`; empty: no such statistics",
    )
    images: Count = Field(20_000, description="images sampled per set, in row groups spread evenly over the set")
    near_bits: int = Field(
        24, ge=0, le=128, description="largest Hamming distance of duplicate images' hashes (0..128 of 256 bits)"
    )
    pairs: Count = Field(20_000, description="genuine pairs drawn, and as many impostor pairs")
    batch_size: Count = Field(256, description="images per forward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of the forward pass")
    actors: Count = Field(1, description="inspection actors")
    cpus_per_actor: Positive = Field(1, description="CPUs reserved per inspection actor")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per inspection actor")
