"""Settings of importing what others made."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Positive, Section


class ImportSettings(Section):
    """People's own pictures to a face dataset: where they are, what is done to them, what is left out."""

    source: str = Field("folders", description="folders, recordio, lfw, kface, ijb, bin, or a plug-in (docs/data.md)")
    path: str = Field("", description="folder or file of that source, local or on a file system all nodes share")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that source")
    alignment: Literal["auto", "none", "given", "detect"] = Field(
        "auto",
        description="none: the pictures are crops on align.template; given: by the source's landmarks; detect: by "
        "align.detector; auto: what the source says",
    )
    damaged: Literal["skip", "fail"] = Field("skip", description="damaged pictures: count and go on, or end the job")
    verify: Literal["decode", "header"] = Field(
        "decode", description="check of crops that are stored as they are: decode each, or look at its header and end"
    )
    max_pixels: Count = Field(64_000_000, description="larger pictures count as damage; looked up before decoding")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of faces cut out or resized (1..100)")
    min_images: Count = Field(1, description="identities with fewer images left are dropped (1 or more)")
    min_pixels: Index = Field(0, description="faces whose crop covers fewer source pixels a side are dropped (0: none)")
    min_sharpness: NonNegative = Field(
        0, description="faces with a lower variance of the Laplacian are dropped as blurred (0: none; 50 is soft)"
    )
    duplicates: Literal["keep", "exact", "hash", "embedding"] = Field(
        "keep", description="repeated pictures of one person to drop: none, same bytes, near perceptual hash, embedding"
    )
    duplicate_bits: int = Field(24, ge=0, le=128, description="hashes this near are one picture (0..128 of 256 bits)")
    duplicate_similarity: Fraction = Field(0.95, description="embeddings this similar are one picture (cosine, 0..1)")
    model: str = Field("", description="checkpoint that embeds, for duplicates=embedding and overlap; below `output`")
    overlap_sets: list[str] = Field(
        [], description="sets to judge by (.bin or face datasets): their people must not be in"
    )
    overlap_similarity: Fraction = Field(
        0.5, description="an identity this similar to a face of those sets is the same person (cosine, 0..1; by model)"
    )
    overlap: Literal["drop", "report"] = Field("drop", description="identities in those sets: leave out, or only name")
    images_per_part: Count = Field(2048, description="images in one part file, about; the unit of resuming")
    actors: Count = Field(2, description="importing actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved by an importing actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved by an importing actor (fractions allowed)")
    threads: Count = Field(1, description="threads that read and decode ahead in each actor")
