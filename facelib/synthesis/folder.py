"""Finished image sets as a generator: `<folder>/<identity>/<picture>`, read only.

For what other generators have exported: DigiFace-1M, IDiff-Face, DCFace and the like. Identity i is the i-th folder in
name order and image j its j-th image in name order; a code is the identity's number, a factor the image's. So the
seed has no part in it, and identities are as many as there are folders.

Shapes: N batch, R image size.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from facelib.data import IMAGE_SUFFIXES, Folder, decode_image
from facelib.data.listing import HARMLESS, sized_images
from facelib.synthesis.generator import register_generator

_MOST = 1 << 24  # whole numbers that float32 keeps apart


@register_generator("folder")
class FolderGenerator:
    """Images from a folder of identity folders.

    Args:
        folder: holds a folder for each identity, which holds images (.jpg, .jpeg, .png, .bmp, .webp).
        image_size: R; other images are resized to it. None takes the size of the first image and refuses others.
        missing: what to do for an image beyond an identity's last: `error`, or `blank` for a black image, which any
            face detector rejects, so that identities may have different numbers of images.
        license: the terms of the images, kept with all that is made of them.

    Attributes:
        left_out: number of files that are not used by reason, see `facelib.data.listing`.

    Raises:
        FileNotFoundError: no such folder, or no images in it.
        ValueError: a setting out of range, or a first image that is not square.
    """

    name = "folder"
    identity_size = 1
    license: str
    identities: int | None

    def __init__(
        self,
        folder: str,
        image_size: int | None = None,
        missing: str = "error",
        license: str = "that of the picture set, see its authors",
    ) -> None:
        if image_size is not None and not 16 <= image_size <= 4096:
            raise ValueError(f"image_size is {image_size}, expected 16 to 4096 pixels")
        if missing not in ("error", "blank"):
            raise ValueError(f"missing is {missing!r}: choose 'error' or 'blank'")
        self.folder, self.missing, self.license = Path(folder), missing, license
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; it should hold a folder of pictures for each identity")
        self._people, self.weights_hash, self.left_out = _scan(self.folder)
        if any(reason not in HARMLESS for reason in self.left_out):
            logging.getLogger(__name__).warning("%s: left out %s", folder, self.left_out)
        self.identities = len(self._people)
        self.factors: dict[str, int] = {"image": 1}
        self._resize = image_size is not None
        self.image_size: int = image_size or self._first_size()

    def identity_codes(self, seed: int, identities: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Codes float32 [N, 1] of identities int64 [N]: their numbers.

        Raises:
            ValueError: an identity that the folder does not have.
        """
        for identity in np.unique(identities):
            self._person(int(identity))
        return np.asarray(identities, np.float32)[:, None]

    def image_factors(
        self, seed: int, identities: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Factors float32 [N, 1] of image `indices[n]` of `identities[n]`: the image's number.

        Raises:
            ValueError: an image that an identity does not have, unless missing images are blank.
        """
        for identity, index in zip(identities, indices, strict=True):
            person, pictures = self._person(int(identity))
            if not 0 <= index < (len(pictures) if self.missing == "error" else _MOST):
                raise ValueError(
                    f"{self.folder / person} has {len(pictures)} pictures, number {index} was asked for: ask for fewer "
                    "images per identity, or set missing='blank'"
                )
        return np.asarray(indices, np.float32)[:, None]

    def render(self, codes: npt.NDArray[np.float32], factors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of codes [N, 1] and factors [N, 1].

        Raises:
            ValueError: a file that is not an image, or not of the size of the first.
        """
        images = np.zeros((len(codes), self.image_size, self.image_size, 3), np.uint8)
        for row, (identity, index) in enumerate(zip(codes[:, 0], factors[:, 0], strict=True)):
            person, pictures = self._person(int(identity))
            if index < len(pictures):
                images[row] = self._fit(self.folder / person / pictures[int(index)])
        return images

    def _person(self, identity: int) -> tuple[str, list[str]]:
        if not 0 <= identity < len(self._people):
            raise ValueError(f"{self.folder} has identities 0 to {len(self._people) - 1}, {identity} was asked for")
        return self._people[identity]

    def _fit(self, path: Path) -> npt.NDArray[np.uint8]:
        image, size = _read(path), self.image_size
        if image.shape[:2] == (size, size):
            return image
        if not self._resize:
            raise ValueError(
                f"{path} has {image.shape[1]} x {image.shape[0]} pixels, the first picture {size} x {size}: "
                "set image_size to resize all"
            )
        shrink = max(image.shape[:2]) > size
        resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8)

    def _first_size(self) -> int:
        person, pictures = self._people[0]
        path = self.folder / person / pictures[0]
        height, width = _read(path).shape[:2]
        if height != width:
            raise ValueError(f"{path} has {width} x {height} pixels, not square: set image_size to resize all")
        return int(height)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return decode_image(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from error


def _scan(folder: Path) -> tuple[list[tuple[str, list[str]]], str, dict[str, int]]:
    """(identity folder, its images) in name order, the SHA-256 of all names and sizes, and what was left out."""
    left_out: list[str] = []
    people: dict[str, list[tuple[str, int]]] = {}

    def skip(reason: str, place: str, detail: str) -> None:
        left_out.append(reason)

    for place, size in sized_images(Folder(str(folder)), skip, follow_links=True):
        person, _, name = place.partition("/")
        if name and "/" not in name:
            people.setdefault(person, []).append((name, size))
        else:
            left_out.append("no_identity")
    if not people:
        found = f" ({len(left_out)} other files, the first is {left_out[0]})" if left_out else ""
        raise FileNotFoundError(
            f"{folder}: no pictures; expected <identity>/<picture> with {', '.join(IMAGE_SUFFIXES)}{found}"
        )
    if len(people) > _MOST:
        raise ValueError(f"{folder} has {len(people)} identities, at most {_MOST} can be told apart")
    digest, listed = hashlib.sha256(), []
    for person, files in sorted(people.items()):
        digest.update("".join(f"{person}/{name} {size}\n" for name, size in sorted(files)).encode())
        listed.append((person, sorted(name for name, _ in files)))
    return listed, digest.hexdigest(), dict(sorted(Counter(left_out).items()))
