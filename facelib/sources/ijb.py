"""Metadata of the IJB-B and IJB-C 1:1 protocols, as distributed with the published evaluation code.

A folder `meta` (or the folder itself) holds, with the prefix `ijbb` or `ijbc`:
`*_face_tid_mid.txt` lines "image template medium", `*_template_pair_label.txt` lines "template template label" (8.0
and 15.7 million pairs), and in the insightface variant `*_name_5pts_score.txt` lines "image x1 y1 ... x5 y5 score"
with the landmarks that the images in `loose_crop` are aligned by.

Shape legend: M images, P template pairs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facelib.utils.text_files import read_lines

CROPS = "loose_crop"
IMAGES, PAIRS, LANDMARKS = "_face_tid_mid.txt", "_template_pair_label.txt", "_name_5pts_score.txt"


class IJBError(ValueError):
    """IJB metadata that is incomplete, damaged or contradicts itself."""


class IJBMetadata:
    """Images, templates and pairs of IJB-B or IJB-C.

    Args:
        folder: folder that holds `meta/` and the images, or the metadata files themselves.
        subset: "ijbb" or "ijbc"; needed only where the folder holds both.
        images: folder of the images, relative to `folder` or absolute; empty: `loose_crop`, else what `meta/img.list`
            says (a path below `folder` on each line), else `folder` itself.

    Attributes:
        subset: prefix of the files read.
        names: image file names, list of M.
        image_folder, paths: folder of the images, and the path of each below it, list of M.
        templates, medias: template and medium number of each image, int64 [M].
        landmarks: five (x, y) points in pixels of each image, float32 [M, 5, 2]; None without the insightface file.
        scores: detector score of each image, float32 [M]; None without the insightface file.
        first, second: template numbers of each pair, int32 [P].
        labels: True where both templates show one person, bool [P].

    Raises:
        FileNotFoundError: a metadata file is missing.
        IJBError: a file is damaged, or the files do not fit together.
    """

    def __init__(self, folder: str | os.PathLike[str], subset: str | None = None, images: str = "") -> None:
        self.folder = Path(folder)
        files = ijb_files(self.folder, subset)
        self.subset = files.subset
        self.names, self.templates, self.medias = _read_images(files.images)
        self.first, self.second, self.labels = _read_pairs(files.pairs)
        self._check_templates(files.pairs)
        self.image_folder, self.paths = _locate_images(self.folder, images, self.names, files.images.parent)
        self.landmarks: NDArray[np.float32] | None = None
        self.scores: NDArray[np.float32] | None = None
        if files.landmarks.is_file():
            self.landmarks, self.scores = _read_landmarks(files.landmarks, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def image_path(self, index: int) -> Path:
        """Image of image `index`."""
        return self.image_folder / self.paths[index]

    def _check_templates(self, path: Path) -> None:
        known = np.unique(self.templates)
        for name, column in (("first", self.first), ("second", self.second)):
            used = np.unique(column)
            missing = used[~np.isin(used, known)]
            if len(missing):
                raise IJBError(f"{path}: the {name} template {missing[0]} of a pair has no image in *{IMAGES}")


def _locate_images(folder: Path, images: str, names: list[str], meta: Path) -> tuple[Path, list[str]]:
    """Folder of the images and their paths below it; see `IJBMetadata`."""
    chosen = folder / (images or CROPS)
    if chosen.is_dir():
        return chosen, names
    if images:
        raise FileNotFoundError(f"{chosen}: no such folder of IJB images, as images={images} says")
    listing = meta / "img.list"
    if not listing.is_file():
        return folder, names
    path_of = {Path(line).name: line.strip() for _, line in read_lines(listing, escape=True)}
    missing = next((name for name in names if name not in path_of), None)
    if missing is not None:
        raise IJBError(f"{listing}: does not list image {missing}")
    return folder, [path_of[name] for name in names]


class IJBFiles(NamedTuple):
    """The metadata files of one set; `landmarks` exists in the insightface variant only."""

    subset: str
    images: Path
    pairs: Path
    landmarks: Path


def ijb_files(folder: Path, subset: str | None = None) -> IJBFiles:
    """Find the metadata of IJB-B or IJB-C in `folder` or its `meta`.

    Raises:
        FileNotFoundError: there is none.
        IJBError: there are both, and `subset` does not say which.
    """
    pattern = f"{(subset or '*').lower()}{IMAGES}"
    for place in (folder / "meta", folder):
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            names = [path.name[: -len(IMAGES)] for path in found]
            raise IJBError(f"{place}: holds {' and '.join(names)}; say which one with subset=")
        if found:
            name = found[0].name[: -len(IMAGES)]
            return IJBFiles(name, found[0], place / (name + PAIRS), place / (name + LANDMARKS))
    raise FileNotFoundError(f"{folder}: no {pattern} here or in meta/; give the folder of the IJB release")


def _read_columns(path: Path, types: dict[str, Any]) -> dict[str, Any]:
    """Columns of a file of values separated by single spaces, tabs or commas."""
    import pyarrow as pa
    from pyarrow import csv

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the IJB release is incomplete")
    with open(path, encoding="utf-8", errors="replace") as file:
        line = file.readline()
    delimiter = next((mark for mark in ("\t", ",") if mark in line), " ")
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=list(types)),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise IJBError(f"{path}: expected the columns {', '.join(types)}: {error}") from None
    for name in types:
        if table[name].null_count:
            raise IJBError(f"{path}: {table[name].null_count} lines have no {name}; copy the file again")
    return {name: table[name] for name in types}


def _read_images(path: Path) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    import pyarrow as pa

    columns = _read_columns(path, {"image": pa.string(), "template": pa.int64(), "medium": pa.int64()})
    return columns["image"].to_pylist(), columns["template"].to_numpy(), columns["medium"].to_numpy()


def _read_pairs(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    import pyarrow as pa

    columns = _read_columns(path, {"first": pa.int32(), "second": pa.int32(), "label": pa.int8()})
    labels = columns["label"].to_numpy()
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        line = int(np.argmax(wrong))
        raise IJBError(f"{path}: line {line + 1} has label {labels[line]}; it must be 1 (same person) or 0")
    return columns["first"].to_numpy(), columns["second"].to_numpy(), labels == 1


def _read_landmarks(path: Path, names: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Landmarks [M, 5, 2] and scores [M] in the order of `names`, whatever the order of the file."""
    import pyarrow as pa

    numbers = [f"{axis}{point}" for point in range(1, 6) for axis in "xy"] + ["score"]
    columns = _read_columns(path, {"image": pa.string(), **dict.fromkeys(numbers, pa.float32())})
    values = np.stack([columns[name].to_numpy() for name in numbers], axis=1)
    listed = columns["image"].to_pylist()
    if listed != names:
        row_of = {name: row for row, name in enumerate(listed)}
        missing = next((name for name in names if name not in row_of), None)
        if missing is not None:
            raise IJBError(f"{path}: no landmarks for image {missing}")
        values = values[[row_of[name] for name in names]]
    return np.ascontiguousarray(values[:, :10]).reshape(-1, 5, 2), np.ascontiguousarray(values[:, 10])
