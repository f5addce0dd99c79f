"""Settings of making faces: generation and alignment."""

from typing import Any

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Positive, Section


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
    template: str = Field(
        "arcface", description="five-point template: arcface, arcface-96 (8 px to the left), arcface-padded (K-FACE)"
    )
    size: int = Field(112, ge=32, le=512, description="side of the aligned face, pixels (32..512)")
    min_score: Fraction = Field(0.8, description="detections below this score are rejected (0..1)")
    actors: Count = Field(1, description="aligner actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved by an aligner actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an aligner actor (fractions allowed)")
