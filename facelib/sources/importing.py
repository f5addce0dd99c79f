"""From listed images to the faces of one dataset part: read, checked, aligned, filtered, in the order of the list.

What comes out is a function of the entries, the settings and the weights involved; nothing depends on threads, batches
of other parts, or who does it. Every entry comes out as a face or as a `Skipped` with its reason.

Shape legend: N faces, D embedding, E images of evaluation sets.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from facelib.alignment import Aligner, FaceDetector, Rejection, align_face, similarity_transform
from facelib.config import AlignSettings, ImportSettings
from facelib.data import Face, decode_image, encode_image
from facelib.data.image_headers import declared_size, ends_properly
from facelib.sources.duplicates import exact_fingerprint, perceptual_hash, repeated_embeddings, repeated_hashes
from facelib.sources.source import Entry, FaceSource, Skipped, UnreadableImageError
from facelib.utils.arrays import l2_normalize

# Images decoded at a time, by each thread and by the aligner: bounds the memory, whatever the size of a part.
BATCH = 16
NO_FACTORS = np.zeros(0, np.float32)
UNKNOWN_LANDMARKS = np.full((5, 2), np.nan, np.float32)

Embed = Callable[[Sequence[bytes]], NDArray[np.float32]]


@dataclass(frozen=True)
class References:
    """Identities who must not be in the dataset: embeddings float32 [E, D], normalized, and the name of each image."""

    embeddings: NDArray[np.float32]
    names: list[str]


@dataclass(frozen=True)
class Overlap:
    """An identity whose mean embedding comes near an image of an evaluation set."""

    identity: int
    name: str
    similarity: float
    picture: str


@dataclass
class ImportedPart:
    """What became of a part's entries; faces and skipped together are as many as the entries.

    Args:
        resized: crops that were of another size.
        fingerprints: (identity, index, 32 bytes in hexadecimal) of every face, for duplicates "exact" and "hash".
    """

    faces: list[Face] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    resized: int = 0
    fingerprints: list[tuple[int, int, str]] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)


@dataclass
class _Picture:
    """A readable image: its bytes, its size as announced, and its pixels unless no process needs them."""

    entry: Entry
    data: bytes
    size: tuple[int, int]
    pixels: NDArray[np.uint8] | None


@dataclass
class _Crop:
    """A face on the template. `covers` is the side of the source region that became the crop, in pixels."""

    entry: Entry
    data: bytes
    pixels: NDArray[np.uint8] | None
    score: float
    landmarks: NDArray[np.float32]
    covers: float
    resized: bool = False


class PartImporter:
    """Turns entries of a source into faces.

    Args:
        source: where the images are.
        source_name: what the `source` column of the dataset begins with.
        ask, align: settings; `ask.alignment` must not be "auto" any more.
        detector: for alignment "detect".
        embed: encoded faces -> embeddings float32 [N, D], for duplicates by embedding and for the overlap check.
        references: identities who must not be in the dataset.
    """

    def __init__(
        self,
        source: FaceSource,
        source_name: str,
        cfg: ImportSettings,
        align: AlignSettings,
        detector: FaceDetector | None = None,
        embed: Embed | None = None,
        references: References | None = None,
    ) -> None:
        self.source, self.source_name, self.cfg, self.align = source, source_name, cfg, align
        self.embed, self.references = embed, references
        self._aligner = None
        if detector is not None:
            self._aligner = Aligner(
                detector,
                template=align.template,
                size=align.size,
                min_score=align.min_score,
                selection=align.selection,
            )
        self._needs_pixels = (
            cfg.alignment != "none" or cfg.verify == "decode" or cfg.min_sharpness > 0 or cfg.duplicates == "hash"
        )

    def run(self, entries: Sequence[Entry]) -> ImportedPart:
        """Faces of `entries`, which hold whole identities, in their order."""
        part = ImportedPart()
        crops: list[_Crop] = []
        borrowed: dict[str, _Crop | Skipped] = {}
        for batch in self._loaded(entries):
            for result in self._align(batch, borrowed):
                checked = self._check_quality(result) if isinstance(result, _Crop) else result
                if isinstance(checked, Skipped):
                    part.skipped.append(checked)
                else:
                    crops.append(checked)
        embeddings = self._embeddings(crops)
        position = 0
        for _, group in itertools.groupby(crops, key=lambda crop: crop.entry.identity):
            person = list(group)
            own = None if embeddings is None else embeddings[position : position + len(person)]
            position += len(person)
            self._keep(person, own, part)
        return part

    def _keep(self, person: list[_Crop], embeddings: NDArray[np.float32] | None, part: ImportedPart) -> None:
        """Add what stays of one person's faces to the part."""
        prints = self._fingerprints(person)
        repeats = self._repeats(prints, embeddings, len(person))
        for crop, repeat in zip(person, repeats.tolist(), strict=True):
            if repeat >= 0:
                part.skipped.append(Skipped("duplicate", crop.entry.place, f"repeats {person[repeat].entry.place}"))
        kept = np.flatnonzero(repeats < 0).tolist()
        first = person[0].entry
        if embeddings is not None and self.references is not None:
            found = self._overlap(first, embeddings[kept])
            if found is not None:
                part.overlaps.append(found)
                if self.cfg.overlap == "drop":
                    detail = f"{found.similarity:.3f} to {found.picture}"
                    part.skipped += [Skipped("overlap", person[i].entry.place, detail) for i in kept]
                    return
        if len(kept) < self.cfg.min_images:
            detail = f"identity {first.name} has {len(kept)} left, min_images is {self.cfg.min_images}"
            part.skipped += [Skipped("few_images", person[i].entry.place, detail) for i in kept]
            return
        for i in kept:
            crop, entry = person[i], person[i].entry
            place = f"{self.source_name}:{entry.place}"
            part.faces.append(
                Face(crop.data, entry.identity, entry.index, crop.score, crop.landmarks, NO_FACTORS, place)
            )
            part.resized += crop.resized
            if prints is not None:
                part.fingerprints.append((entry.identity, entry.index, prints[i].tobytes().hex()))

    def _loaded(self, entries: Sequence[Entry]) -> Iterator[list[_Picture | Skipped]]:
        """Batches of images; each thread reads and decodes one ahead."""
        with ThreadPoolExecutor(self.cfg.threads) as pool:
            ahead: deque[Future[list[_Picture | Skipped]]] = deque()
            for begin in range(0, len(entries), BATCH):
                ahead.append(pool.submit(self._load_all, entries[begin : begin + BATCH]))
                if len(ahead) > self.cfg.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _load_all(self, entries: Sequence[Entry]) -> list[_Picture | Skipped]:
        return [self._load(entry) for entry in entries]

    def _load(self, entry: Entry) -> _Picture | Skipped:
        try:
            data = self.source.read(entry)
        except UnreadableImageError as error:
            return Skipped(error.reason, entry.place, error.detail, damage=True)
        except Exception as error:  # A source that does not keep to its contract must not cost the place.
            return Skipped("source_error", entry.place, f"{type(error).__name__}: {error}", damage=True)
        try:
            height, width = declared_size(data)
        except ValueError as error:
            return Skipped("not_a_picture", entry.place, str(error), damage=True)
        if height * width > self.cfg.max_pixels:
            detail = f"{width}x{height} announced, max_pixels is {self.cfg.max_pixels}"
            return Skipped("too_many_pixels", entry.place, detail, damage=True)
        pixels = None
        if self._needs_pixels:
            try:
                pixels = decode_image(data, self.cfg.max_pixels)
            except ValueError as error:
                return Skipped("damaged_picture", entry.place, str(error), damage=True)
        elif not ends_properly(data):
            return Skipped("damaged_picture", entry.place, "image: truncated", damage=True)
        return _Picture(entry, data, (height, width), pixels)

    def _align(
        self, batch: list[_Picture | Skipped], borrowed: dict[str, _Crop | Skipped]
    ) -> Iterator[_Crop | Skipped]:
        """A crop or a reason for every image, in order."""
        if self.cfg.alignment == "detect":
            wanted = [p.entry.landmark_place for p in batch if isinstance(p, _Picture) and p.entry.landmark_place]
            self._borrow([place for place in dict.fromkeys(wanted) if place not in borrowed], borrowed)
        own = [p for p in batch if isinstance(p, _Picture) and not p.entry.landmark_place]
        detected = iter(self._detect(own)) if self.cfg.alignment == "detect" else iter(())
        for picture in batch:
            if isinstance(picture, Skipped):
                yield picture
            elif self.cfg.alignment == "none":
                yield self._as_is(picture)
            elif self.cfg.alignment == "given":
                yield self._warp(picture, picture.entry.landmarks, picture.entry.score)
            elif picture.entry.landmark_place:
                lent = borrowed[picture.entry.landmark_place]
                if isinstance(lent, Skipped):
                    yield Skipped("no_landmarks", picture.entry.place, str(lent))
                else:
                    yield self._warp(picture, lent.landmarks, lent.score)
            else:
                yield next(detected)

    def _borrow(self, places: list[str], borrowed: dict[str, _Crop | Skipped]) -> None:
        """Landmarks of images that others are aligned by."""
        loaded = [self._load(Entry(0, "", 0, place)) for place in places]
        found = iter(self._detect([picture for picture in loaded if isinstance(picture, _Picture)]))
        for place, picture in zip(places, loaded, strict=True):
            borrowed[place] = picture if isinstance(picture, Skipped) else next(found)

    def _detect(self, pictures: list[_Picture]) -> list[_Crop | Skipped]:
        assert self._aligner is not None, "alignment 'detect' needs a detector"
        results: list[_Crop | Skipped] = []
        images = [picture.pixels for picture in pictures if picture.pixels is not None]
        for picture, result in zip(pictures, self._aligner.align(images), strict=True):
            if isinstance(result, Rejection):
                results.append(Skipped(str(result.reason), picture.entry.place, result.detail))
            else:
                results.append(self._crop(picture, result.image, result.landmarks, result.score))
        return results

    def _warp(self, picture: _Picture, landmarks: NDArray[np.float32] | None, score: float) -> _Crop | Skipped:
        place = picture.entry.place
        if landmarks is None or not np.isfinite(landmarks).all():
            return Skipped("no_landmarks", place, "the source knows none for this picture")
        if score < self.align.min_score:
            return Skipped("low_score", place, f"score {score:.3f} is below {self.align.min_score:g}")
        assert picture.pixels is not None
        try:
            image = align_face(picture.pixels, landmarks, self.align.template, self.align.size)
        except ValueError as error:
            return Skipped("degenerate_landmarks", place, str(error))
        return self._crop(picture, image.astype(np.uint8, copy=False), landmarks, score)

    def _crop(self, picture: _Picture, image: NDArray[np.uint8], landmarks: NDArray[np.float32], score: float) -> _Crop:
        matrix = similarity_transform(landmarks, self.align.template)
        # One pixel of a 112-pixel crop is 1/scale source pixels, whatever the size it is stored at.
        covers = 112 / math.hypot(matrix[0, 0], matrix[1, 0])
        data = encode_image(image, self.cfg.jpeg_quality)
        return _Crop(picture.entry, data, image, score, landmarks.astype(np.float32), covers)

    def _as_is(self, picture: _Picture) -> _Crop | Skipped:
        """An image that is a crop already: stored byte for byte unless it has another size."""
        height, width = picture.size
        crop = _Crop(
            picture.entry, picture.data, picture.pixels, picture.entry.score, UNKNOWN_LANDMARKS, min(height, width)
        )
        if height == width == self.align.size:
            return crop
        if height != width:
            detail = f"{width}x{height}: a crop is square; alignment=detect cuts one out"
            return Skipped("not_square", picture.entry.place, detail)
        try:
            pixels = decode_image(picture.data) if picture.pixels is None else picture.pixels
        except ValueError as error:
            return Skipped("damaged_picture", picture.entry.place, str(error), damage=True)
        side = self.align.size
        how = cv2.INTER_AREA if height > side else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=how), np.uint8)
        return replace(crop, data=encode_image(pixels, self.cfg.jpeg_quality), pixels=pixels, resized=True)

    def _check_quality(self, crop: _Crop) -> _Crop | Skipped:
        """The crop, without pixels that no process needs any more, or why it is not good enough."""
        if crop.covers < self.cfg.min_pixels:
            detail = f"its crop covers {crop.covers:.0f} pixels a side, min_pixels is {self.cfg.min_pixels}"
            return Skipped("few_pixels", crop.entry.place, detail)
        if self.cfg.min_sharpness > 0:
            assert crop.pixels is not None
            found = sharpness(crop.pixels)
            if found < self.cfg.min_sharpness:
                detail = f"sharpness {found:.1f} is below {self.cfg.min_sharpness:g}"
                return Skipped("blurred", crop.entry.place, detail)
        return crop if self.cfg.duplicates == "hash" else replace(crop, pixels=None)

    def _fingerprints(self, person: list[_Crop]) -> NDArray[np.uint8] | None:
        if self.cfg.duplicates == "exact":
            return np.stack([exact_fingerprint(crop.data) for crop in person])
        if self.cfg.duplicates == "hash":
            return np.stack([perceptual_hash(crop.pixels) for crop in person if crop.pixels is not None])
        return None

    def _repeats(
        self, prints: NDArray[np.uint8] | None, embeddings: NDArray[np.float32] | None, count: int
    ) -> NDArray[np.int64]:
        if prints is not None:
            return repeated_hashes(prints, self.cfg.duplicate_bits if self.cfg.duplicates == "hash" else 0)
        if self.cfg.duplicates == "embedding" and embeddings is not None:
            return repeated_embeddings(embeddings, self.cfg.duplicate_similarity)
        return np.full(count, -1, np.int64)

    def _embeddings(self, crops: list[_Crop]) -> NDArray[np.float32] | None:
        if self.embed is None or not crops or not (self.cfg.duplicates == "embedding" or self.references):
            return None
        return l2_normalize(self.embed([crop.data for crop in crops]))

    def _overlap(self, entry: Entry, embeddings: NDArray[np.float32]) -> Overlap | None:
        assert self.references is not None
        mean = l2_normalize(embeddings.mean(axis=0, keepdims=True))[0]
        similarities = self.references.embeddings @ mean
        best = int(similarities.argmax())
        if similarities[best] < self.cfg.overlap_similarity:
            return None
        return Overlap(entry.identity, entry.name, float(similarities[best]), self.references.names[best])


def sharpness(image: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the gray image: low where nothing has an edge."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
