"""Labeled Faces in the Wild (Huang et al. 2007), from a local folder or scikit-learn's downloader.

Images are `<Name>/<Name>_0001.jpg`: as the archives unpack (`lfw`, `lfw_funneled`, `lfw-deepfunneled`, twice the same
folder as on Kaggle), in scikit-learn's `lfw_home`, or all in one folder; with any suffix of images, and named
`<Name>_0001_0.png`, as facenet's MTCNN aligner writes the faces that it finds. The official pair files stand beside
them or above: View 1 (`pairsDevTrain.txt`, `pairsDevTest.txt`) for development, View 2 (`pairs.txt`) for reporting.

A pair file starts with the number of pairs of a kind ("10 300": ten folds of 300). "name 1 4" is a genuine pair,
"name 1 other 2" an impostor pair. Files of lines "path path 1" (or 0) without such a start are read too.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from facelib.data.listing import Skip, image_files, is_hidden, is_image_name
from facelib.sources.files import check_folder, read_picture
from facelib.sources.source import Entry, FaceSource, IndexBuilder, PairList, SourceError, SourceIndex, register_source
from facelib.utils.optional import require_extra
from facelib.utils.text_files import read_lines

VIEWS = {
    "view1": ("pairsDevTrain.txt", "pairsDevTest.txt"),
    "view1-train": ("pairsDevTrain.txt",),
    "view1-test": ("pairsDevTest.txt",),
    "view2": ("pairs.txt",),
}
FOLDS = 10
Pair = tuple[str, str, bool]  # names of two images, and whether they show one identity
_PICTURE = re.compile(r"(?:.*/)?(?P<name>[^/]+)_(?P<number>\d{4,})(?:_(?P<face>\d+))?\.\w+", re.DOTALL)


@register_source("lfw")
class LFW(FaceSource):
    """LFW's images, all of them or those of a view's pairs.

    Args:
        path: a folder that holds the images in one of their usual layouts.
        view: "" for all people, or `view1`, `view1-train`, `view1-test`, `view2`, or the path of a pair file: then only
            images of its pairs are listed, and the pairs are given too.
        download: let scikit-learn download the funneled images and the pair files below `path` first (200 MB).

    Raises:
        FileNotFoundError: no images there, or no pair file.
        SourceError: a damaged pair file.
    """

    def __init__(self, path: str, view: str = "", download: bool = False) -> None:
        if download:
            _download(path)
        root = check_folder(path, "LFW's pictures")
        self.folder = _find_pictures(root)
        self._pairs = [read_lfw_pairs(file) for file in _find_pair_files(root, self.folder, view)]

    def index(self) -> SourceIndex:
        """List the images; an image that a pair names and that is not there counts as skipped."""
        builder = IndexBuilder()
        there = self._pictures(builder.skip)
        wanted = {key for pairs in self._pairs for key in (*pairs.first, *pairs.second)}
        for key, place in there.items():
            if wanted and key not in wanted:
                builder.skip("not_selected", place, "in no pair")
            else:
                builder.add(key.rpartition("/")[0], place)
        for key in sorted(wanted - there.keys()):
            builder.skip("missing_file", key, "named by a pair")
        return builder.build()

    def read(self, entry: Entry) -> bytes:
        """The file's bytes."""
        return read_picture(self.folder, entry.place)

    def pair_lists(self) -> list[PairList]:
        """The view's pairs with the places of their images."""
        places = self._pictures(lambda *_: None)
        return [
            PairList(p.name, [places.get(k, k) for k in p.first], [places.get(k, k) for k in p.second], p.issame)
            for p in self._pairs
        ]

    def _pictures(self, skip: Skip) -> dict[str, str]:
        """Place of every image "Name/number" below the folder."""
        there: dict[str, str] = {}
        for place in image_files(self.folder, skip):
            match = _PICTURE.fullmatch(place)
            if match is None:
                skip("no_identity", place, "expected Name_0001.jpg")
                continue
            key = _key(match["name"], int(match["number"]))
            if key not in there:
                there[key] = place
            elif match["face"]:
                skip("other_face", place, f"not the first face of its image, which is {there[key]}")
            else:
                skip("listed_twice", place, f"the same image as {there[key]}")
        return there


def read_lfw_pairs(path: str | Path) -> PairList:
    """Pairs of an official pair file; images are named "Name/number".

    They stand as ten blocks that hold both kinds: View 2 is written so, and View 1, which lists all genuine pairs
    first, is brought into that order, because folds are consecutive tenths.

    Raises:
        FileNotFoundError: no such file.
        SourceError: a line of another form (its number is named), or another number of pairs than announced.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such LFW pair file")
    lines = list(read_lines(path))
    rows = _path_pairs(path, lines) or _official_pairs(path, lines)
    if not _mixed(rows):
        rows = [row for block in _folds([r for r in rows if r[2]], [r for r in rows if not r[2]]) for row in block]
    return PairList(path.stem, [r[0] for r in rows], [r[1] for r in rows], np.array([r[2] for r in rows], bool))


def _path_pairs(path: Path, lines: Sequence[tuple[int, str]]) -> list[Pair]:
    """Pairs of a file of lines "path path 1" (or 0); none where its first line is of another form."""
    rows: list[Pair] = []
    for number, line in lines:
        fields = line.split()
        matches = [_PICTURE.fullmatch(field) for field in fields[:2]]
        if len(fields) != 3 or fields[2] not in ("0", "1") or not all(matches):
            if not rows:
                return []
            raise SourceError(f"{path}: line {number} is {line[:80]!r}; expected: Name_0001.jpg Name_0002.jpg 1 (or 0)")
        first, second = (_key(match["name"], int(match["number"])) for match in matches if match)
        rows.append((first, second, fields[2] == "1"))
    return rows


def _official_pairs(path: Path, lines: Sequence[tuple[int, str]]) -> list[Pair]:
    """Pairs of a file in the official form."""
    head = lines[0][1].split() if lines else []
    if not 1 <= len(head) <= 2 or not all(field.isdecimal() for field in head):
        number = lines[0][0] if lines else 1
        raise SourceError(
            f"{path}: line {number} is {' '.join(head)[:60]!r}; expected the number of pairs, or of folds and pairs"
        )
    per_kind, blocks = int(head[-1]), int(head[0]) if len(head) == 2 else 1
    rows: list[Pair] = []
    for number, line in lines[1:]:
        fields = line.split()
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            rows.append((_key(fields[0], int(fields[1])), _key(fields[0], int(fields[2])), True))
        elif len(fields) == 4 and fields[1].isdecimal() and fields[3].isdecimal():
            rows.append((_key(fields[0], int(fields[1])), _key(fields[2], int(fields[3])), False))
        else:
            raise SourceError(f"{path}: line {number} is {line[:80]!r}; expected: name 1 2, or: name 1 name 2")
    if len(rows) != 2 * per_kind * blocks:
        raise SourceError(f"{path}: {len(rows)} pairs, its first line announces {2 * per_kind * blocks}")
    return rows


def _mixed(rows: Sequence[Pair]) -> bool:
    """Whether each tenth holds both kinds already."""
    cuts = [len(rows) * fold // FOLDS for fold in range(FOLDS + 1)]
    return all(len({row[2] for row in rows[a:b]}) == 2 for a, b in itertools.pairwise(cuts))


def _folds(*kinds: list[Pair]) -> Iterable[list[Pair]]:
    """Tenths that hold a tenth of each kind."""
    for fold in range(FOLDS):
        yield [r for k in kinds for r in k[len(k) * fold // FOLDS : len(k) * (fold + 1) // FOLDS]]


def _key(name: str, number: int) -> str:
    """An image's name in pairs; macOS writes accents as characters of their own."""
    return f"{unicodedata.normalize('NFC', name)}/{number}"


def _find_pictures(root: Path) -> Path:
    """The folder, `root` or one up to three levels below it, that holds the identities's folders or all images."""
    level = [root]
    for _ in range(4):
        for folder in level:
            if _holds_pictures(folder):
                return folder
        level = [child for folder in level for child in _folders(folder)][:10_000]
    raise FileNotFoundError(f"{root}: no LFW pictures <Name>/<Name>_0001.jpg here or up to three folders below")


def _holds_pictures(folder: Path) -> bool:
    """Whether it holds images of LFW, or folders with images that are called as the folder is."""
    names = (child.name for child in folder.iterdir() if child.is_file())
    return any(is_image_name(n) and not is_hidden(n) and _PICTURE.fullmatch(n) for n in names) or any(
        is_image_name(picture.name) and (match := _PICTURE.fullmatch(picture.name)) and match["name"] == child.name
        for child in _folders(folder)
        for picture in child.iterdir()
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))


def _find_pair_files(root: Path, pictures: Path, view: str) -> list[Path]:
    if not view:
        return []
    if view not in VIEWS:
        if not view.endswith(".txt"):
            raise SourceError(f"view is {view!r}: choose one of {', '.join(VIEWS)}, or give a pair file (.txt)")
        return [Path(view)]
    found = []
    for name in VIEWS[view]:
        folders = [root, *[p for p in pictures.parents if root in p.parents], pictures]
        places = [folder / name for folder in folders]
        there = next((place for place in places if place.is_file()), None)
        if there is None:
            raise FileNotFoundError(f"{root}: no {name} here; put the official pair file beside the pictures")
        found.append(there)
    return found


def _download(path: str) -> None:
    require_extra("plots", "the download of LFW", "sklearn")

    from sklearn.datasets import fetch_lfw_people

    try:
        # Asking for identities with 500 images loads one person, but downloads and unpacks everything.
        fetch_lfw_people(data_home=path, min_faces_per_person=500, resize=0.1)
    except OSError as error:
        raise ConnectionError(f"{path}: LFW cannot be downloaded ({error}); place it there yourself") from None
