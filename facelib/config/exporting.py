"""Settings of exporting the images of face datasets and RecordIO files."""

from typing import Literal

from pydantic import Field

from facelib.config.fields import Count, NonNegative, Options, Positive, Section


class ExportImagesSettings(Section):
    """Image files, a folder for each identity, out of a face dataset or RecordIO files."""

    input: str | list[str] = Field(
        "faces",
        description="face dataset: path or URI, relative to `output`; or RecordIO: a .rec file, a folder that holds "
        "one, a pattern (/data/*/train.rec) or a list",
    )
    folder: str = Field("image_tree", description="output folder or URI, relative to `output`; the tree is its images/")
    layout: Literal["usynthface", "insightface"] = Field(
        "usynthface",
        description="names: usynthface (0000012/0000012_003.jpg: identity and image number) or insightface "
        "(0_5822654/3.jpg, as its rec2image: file and identity record, image count)",
    )
    options: Options = Field(
        default_factory=dict, description="RecordIO: keyword arguments of the source (idx, use_index, identities)"
    )
    images_per_part: Count = Field(
        2048, description="RecordIO: approximate images per part, the unit of resuming; a dataset has its own parts"
    )
    actors: Count = Field(2, description="export actors")
    cpus_per_actor: Positive = Field(0.5, description="CPUs reserved per export actor (fractions allowed)")
    gpus_per_actor: NonNegative = Field(0, description="GPUs reserved per export actor; it has no use for any")

    @property
    def inputs(self) -> list[str]:
        """The input, or each of several."""
        return [self.input] if isinstance(self.input, str) else self.input
