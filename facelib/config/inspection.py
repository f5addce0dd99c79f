"""Settings of looking at sets of faces."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, NonNegative, Positive, Section


class InspectSettings(Section):
    """What sets of faces are like, side by side."""

    sets: list[str] = Field(
        ["faces"], description="face datasets (relative to `output`), or .bin files; name=path gives a name"
    )
    model: str = Field("", description="checkpoint that tells identities apart; relative to `output`; empty: none")
    images: Count = Field(20_000, description="faces measured of each set, whole row groups spread over it")
    near_bits: int = Field(24, ge=0, le=128, description="hashes this near are one picture (0..128 of 256 bits)")
    pairs: Count = Field(20_000, description="genuine, and as many impostor, pairs drawn")
    batch_size: Count = Field(256, description="images per forward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision of embedding")
    actors: Count = Field(1, description="measuring actors")
    cpus_per_actor: Positive = Field(1, description="CPUs reserved by a measuring actor")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by a measuring actor")
