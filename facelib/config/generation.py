"""Settings of generating a face dataset: image generation and face alignment."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Options, Positive, Section


class GeneratorShare(Section):
    """One generator of a mixture."""

    name: str = Field(description="the generator")
    share: Positive = Field(description="its share of the identities, relative to the sum of all shares")
    options: Options = Field(default_factory=dict, description="keyword arguments of the generator")


class GenerateSettings(Section):
    """Synthetic identities and their images."""

    generator: str | list[GeneratorShare] = Field(
        "morphable",
        description="image generator: morphable, mobilestylegan (photographs; non-commercial), discofacegan (needs "
        "weights), folder (images generated elsewhere), or a plug-in; auto: mobilestylegan where its weights are, "
        "else morphable; or several: "
        '[{"name": "mobilestylegan", "share": 0.7}, {"name": "morphable", "share": 0.3}]',
    )
    options: Options = Field(
        default_factory=dict, description="keyword arguments of the generator; those of a mixture have their own"
    )
    identities: Count = Field(1000, description="identities in the training dataset (1 or more)")
    images_per_identity: Count = Field(8, description="images generated per identity (1 or more)")
    first_identity: Index = Field(
        0, description="number of the first identity; datasets with overlapping ranges contain the same identities"
    )
    heldout_identities: Index = Field(
        200,
        description="identities of the held-out dataset, never used for training (0: no held-out dataset); numbered "
        "from 2^40",
    )
    identities_per_part: Count = Field(64, description="identities per part file, the unit of resuming")
    identities_per_task: Count = Field(8, description="identities rendered per task; bounds memory in flight")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of stored faces (1..100)")
    actors: Count = Field(2, description="generator actors")
    max_actors: Count | None = Field(
        None, description="generator actors that a growing cluster may get while tasks wait; null: as many as actors"
    )
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per generator actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per generator actor (fractions allowed)")

    @property
    def generator_name(self) -> str:
        """The generator, or those of a mixture joined by `+`."""
        if isinstance(self.generator, str):
            return self.generator
        return "+".join(dict.fromkeys(part.name for part in self.generator))


class AlignSettings(Section):
    """Face detection and alignment to the training crop."""

    detector: str = Field(
        "retinaface",
        description="face detector: retinaface, or mtcnn (the one USynthFace used); none, of generate only, stores "
        "whole images, unaligned",
    )
    options: Options = Field(default_factory=dict, description="keyword arguments of the detector")
    template: str = Field(
        "arcface",
        description="five-point landmark template: arcface, arcface-96 (shifted 8 px to the left), arcface-padded "
        "(K-FACE)",
    )
    size: int = Field(112, ge=32, le=512, description="side of the aligned face in pixels (32..512)")
    min_score: Fraction = Field(0.8, description="detections with a lower score are rejected (0..1)")
    selection: Literal["largest_central", "largest", "most_central", "highest_score"] = Field(
        "largest_central",
        description="which of several faces in an image is taken: largest_central (box area minus twice the squared "
        "distance from the center), largest (USynthFace), most_central, or highest_score (UNPG's K-FACE)",
    )
    actors: Count = Field(1, description="aligner actors")
    max_actors: Count | None = Field(
        None, description="aligner actors that a growing cluster may get while tasks wait; null: as many as actors"
    )
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per aligner actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per aligner actor (fractions allowed)")

    @property
    def selection_spec(self) -> dict[str, Any]:
        """What `selection` adds to the spec of aligned faces: nothing by default, as before it was a setting."""
        return {} if self.selection == type(self).model_fields["selection"].default else {"selection": self.selection}
