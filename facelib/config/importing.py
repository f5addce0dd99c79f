"""Settings of importing existing face images."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, Fraction, Index, NonNegative, Options, Positive, Section


class ImportSettings(Section):
    """Existing face images to a face dataset: source, alignment, filters."""

    source: str = Field(
        "folders", description="source format: folders, recordio, lfw, kface, ijb, bin, or a plug-in (docs/data.md)"
    )
    path: str | list[str] = Field(
        "",
        description="folder or file of the source: a local path, or on a file system that all nodes share; of recordio "
        "also several: a pattern (/data/*/train.rec) or a list",
    )
    options: Options = Field(default_factory=dict, description="keyword arguments of the source")
    alignment: Literal["auto", "none", "given", "detect"] = Field(
        "auto",
        description="none: images are already aligned to align.template; given: use the landmarks of the source; "
        "detect: use align.detector; auto: the default of the source",
    )
    damaged: Literal["skip", "fail"] = Field("skip", description="unreadable images: skip and count them, or fail")
    verify: Literal["decode", "header"] = Field(
        "decode",
        description="integrity check of images stored unchanged: decode every image, or check only its header and "
        "end marker",
    )
    max_pixels: Count = Field(
        64_000_000, description="images with more pixels count as unreadable; checked in the header, before decoding"
    )
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of cropped or resized faces (1..100)")
    min_images: Count = Field(1, description="drop identities with fewer images after filtering (1 or more)")
    min_pixels: Index = Field(0, description="drop faces whose crop covers fewer source pixels per side (0: keep all)")
    min_sharpness: NonNegative = Field(
        0, description="drop blurred faces: variance of the Laplacian below this (0: keep all; 50 is soft)"
    )
    duplicates: Literal["keep", "exact", "hash", "embedding"] = Field(
        "keep",
        description="drop duplicate images of one identity: none, identical bytes, similar perceptual hash, or similar "
        "embedding",
    )
    duplicate_bits: int = Field(
        24, ge=0, le=128, description="duplicates=hash: largest Hamming distance of duplicates (0..128 of 256 bits)"
    )
    duplicate_similarity: Fraction = Field(
        0.95, description="duplicates=embedding: smallest cosine similarity of duplicates (0..1)"
    )
    model: str = Field(
        "",
        description="checkpoint for duplicates=embedding and overlap_sets: path or URI; relative to `output`",
    )
    overlap_sets: list[str] = Field(
        [],
        description="evaluation sets (.bin files or face datasets) whose identities must not be imported",
    )
    overlap_similarity: Fraction = Field(
        0.5,
        description="smallest cosine similarity at which an identity counts as one of an overlap set (0..1)",
    )
    overlap: Literal["drop", "report"] = Field("drop", description="overlapping identities: drop them, or only report")
    images_per_part: Count = Field(2048, description="approximate images per part file, the unit of resuming")
    actors: Count = Field(2, description="import actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per import actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per import actor (fractions allowed)")
    threads: Count = Field(1, description="read-ahead and decoding threads per actor")

    @property
    def path_text(self) -> str:
        """The path, or several with commas, as messages name them."""
        return self.path if isinstance(self.path, str) else ", ".join(self.path)
