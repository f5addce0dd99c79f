"""Evaluation sets whose identities an import must leave out: their images, embedded as references."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facelib.config import Settings
from facelib.data import MANIFEST_NAME, FaceDataset, Folder, ImageSpec
from facelib.data.storage import file_sha256
from facelib.sources.bins import bin_paths, is_bin
from facelib.sources.importing import References
from facelib.sources.pair_sets import read_bins
from facelib.utils.arrays import l2_normalize
from ray_jobs.actors import ActorPool
from ray_jobs.datasets.importing import load_embed
from ray_jobs.errors import JobError
from ray_jobs.resources import ActorRequest

BATCH = 512  # Images of one call.


def embed_references(settings: Settings) -> References:
    """Embed all images of `import_data.overlap_sets` on one actor, as large as an importing one.

    Raises:
        JobError: a set has faces of another size than `align.size`.
        DatasetError: a face dataset was made with another image spec.
    """
    cfg = settings.import_data
    image_spec = ImageSpec(template=settings.align.template, size=settings.align.size)
    images: list[bytes] = []
    names: list[str] = []
    for spec in cfg.overlap_sets:
        encoded = read_overlap_set(spec, image_spec)
        images += encoded
        names += [f"{spec}, image {number}" for number in range(len(encoded))]
    print(f"embedding {len(images)} images of import_data.overlap_sets", flush=True)
    batches: Iterator[tuple[list[bytes]]] = ((images[b : b + BATCH],) for b in range(0, max(len(images), 1), BATCH))
    with ActorPool(
        ReferenceActor, (settings,), ActorRequest("import_data", cfg, 1), settings.ray.autoscaling, concurrency=2
    ) as pool:
        embeddings = dict(pool.map("embed", batches))
    return References(np.concatenate([embeddings[number] for number in sorted(embeddings)]), names)


class ReferenceActor:
    """Actor: embeds encoded faces with `import_data.model`."""

    def __init__(self, settings: Settings) -> None:
        self.network = load_embed(settings)

    def embed(self, images: list[bytes]) -> NDArray[np.float32]:
        """L2-normalized embeddings, float32 [N, D]."""
        return l2_normalize(self.network(images))


def read_overlap_set(spec: str, image_spec: ImageSpec) -> list[bytes]:
    """All encoded images of a .bin file, of several as a.bin+b.bin, or of a face dataset."""
    if is_bin(spec):
        try:
            images, _, side = read_bins(spec, spec)
        except ValueError as error:
            raise JobError(f"import_data.overlap_sets: {error}") from None
        if side != image_spec.size:
            raise JobError(
                f"import_data.overlap_sets: {spec} has faces of {side} pixels, but align.size is {image_spec.size}"
            )
        return images
    dataset = FaceDataset(spec)
    dataset.image_spec.require(image_spec, f"import_data.overlap_sets: {spec}", "the imported faces")
    return [image for table in dataset.tables(["image"]) for image in table["image"].to_pylist()]


def overlap_set_hash(spec: str) -> str:
    """Hash of a set's images, for the dataset's spec."""
    if is_bin(spec):
        return "+".join(file_sha256(path)[:32] for path in bin_paths(spec))
    return hashlib.sha256(Folder(spec).read(MANIFEST_NAME)).hexdigest()[:32]
