"""K-FACE, the KIST face database: faces under controlled accessory, light, expression and pose (Choi et al. 2021).

Images are at `<identity>/<S001..S006>/<L1..L30>/<E01..E03>/<C1..C20>.jpg`: accessory, lux, expression, pose.
Variances are chosen as the published training lists write them: `s1~6`, `l1~6,8~30`, `e1~3`, `c1~20`. Cameras are
fixed, so landmarks are detected on the plain image of each identity and pose (S001/L1/E01) and reused for all its
other images.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.data.listing import Skip, image_files
from facelib.utils.text_files import read_lines

# Letter of a variance: its name and its highest number.
VARIANCES = {"s": ("accessories", 6), "l": ("luxes", 30), "e": ("expressions", 3), "c": ("poses", 20)}
_FOLDERS = [re.compile(r"S(\d{3})"), re.compile(r"L(\d+)"), re.compile(r"E(\d{2})")]
_PICTURE = re.compile(r"([^/]+)/S(\d{3})/L(\d+)/E(\d{2})/C(\d+)\.\w+")


class KFaceError(ValueError):
    """A K-FACE folder, variance or pair list that cannot be used."""


class KFace:
    """Images of a K-FACE folder with chosen variances.

    `len(kface)` is the number of images; `kface[i]` is (path, class). Classes are numbered by ascending identity
    name, so they are the same in every process.

    Args:
        folder: folder that holds one folder per identity.
        accessories, luxes, expressions, poses: the variances to take, e.g. "s1~6", "l1~6,8~30", "e1~3", "c1~20".
        exclude: identity names to leave out, e.g. the 30 test identities.
        skip: told of everything that is left out, see `facelib.data.listing`; besides its reasons there are
            not_selected and excluded (a folder counts as one), no_identity (an image elsewhere), and unknown_identity
            (a name to leave out that is not there).

    Attributes:
        names: identity name of each class.
        paths: images relative to `folder`, identities ascending.
        classes: class of each image, int64 [images].

    Raises:
        FileNotFoundError: no such folder.
        KFaceError: a variance that does not exist, no image left, or not one of the names to leave out is there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        accessories: str = "s1~6",
        luxes: str = "l1~30",
        expressions: str = "e1~3",
        poses: str = "c1~20",
        exclude: Iterable[str] = (),
        skip: Skip = lambda reason, place, detail: None,
    ) -> None:
        self.folder = Path(folder)
        chosen = self.check(self.folder, accessories, luxes, expressions, poses)
        left_out = set(exclude)
        self._check_exclude(left_out, skip)
        self.names: list[str] = []
        self.paths: list[str] = []
        counts: list[int] = []
        for name, found in itertools.groupby(_pictures(self.folder, chosen, left_out, skip), lambda row: row[0]):
            # By the numbers of their variances: C2 before C10.
            places = [place for _, _, place in sorted(found)]
            self.names.append(name)
            self.paths.extend(places)
            counts.append(len(places))
        if not self.paths:
            raise KFaceError(
                f"{self.folder}: no picture <identity>/S001/L1/E01/C1.jpg "
                f"with {accessories}, {luxes}, {expressions}, {poses}"
            )
        self.classes: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return self.folder / self.paths[index], int(self.classes[index])

    @staticmethod
    def check(folder: Path, *variances: str) -> list[list[int]]:
        """Numbers of the four variances in their order; looks at nothing but whether the folder exists."""
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give the one that holds K-FACE's identity folders")
        return [parse_variance(*pair) for pair in zip(variances, "slec", strict=True)]

    def _check_exclude(self, names: set[str], skip: Skip) -> None:
        """A name that is not there may be misspelled, and the identity that is meant would stay in."""
        unknown = sorted(name for name in names if not (self.folder / name).is_dir())
        if unknown and len(unknown) == len(names):
            raise KFaceError(
                f"{self.folder}: none of the {len(names)} identities to leave out is here, the first is "
                f"{unknown[0]!r}; correct their names, or leave out nothing"
            )
        for name in unknown:
            skip("unknown_identity", name, "an identity to leave out that is not here")

    def landmark_picture(self, index: int) -> Path:
        """The image whose landmarks hold for image `index`: same identity and pose, plain, full light, neutral."""
        return self.folder / landmark_picture(self.paths[index])


def landmark_picture(path: str) -> str:
    """`<identity>/S001/L1/E01/<pose>.jpg` of a K-FACE path.

    Raises:
        KFaceError: not a path of the form `<identity>/S00x/Lx/E0x/Cx.jpg`.
    """
    parts = path.split("/")
    if len(parts) != 5:
        raise KFaceError(f"{path!r} is no K-FACE path; it should read <identity>/S001/L1/E01/C1.jpg")
    return f"{parts[0]}/S001/L1/E01/{parts[4]}"


def parse_variance(text: str, letter: str) -> list[int]:
    """Numbers of a variance: `parse_variance("l1~6,8~30", "l")` is 1 to 6 and 8 to 30, ascending.

    Raises:
        KFaceError: wrong letter, not numbers and ranges, or a number that K-FACE does not have.
    """
    name, highest = VARIANCES[letter]
    numbers: set[int] = set()
    try:
        if not text.lower().startswith(letter):
            raise ValueError
        for part in text[1:].split(","):
            low, _, high = part.partition("~")
            first, last = int(low), int(high or low)
            if not 1 <= first <= last <= highest:
                raise ValueError
            numbers.update(range(first, last + 1))
    except ValueError:
        raise KFaceError(
            f"{name} is {text!r}; write {letter}1~{highest}, or numbers and ranges within, e.g. {letter}1,2~3"
        ) from None
    return sorted(numbers)


def read_kface_pairs(path: str | os.PathLike[str]) -> tuple[list[str], list[str], NDArray[np.bool_]]:
    """Read a pair list, lines "path path 1" (same person) or "path path 0".

    Returns:
        First and second paths (relative to the K-FACE folder) and a boolean array [P].

    Raises:
        FileNotFoundError: no such file.
        KFaceError: no pair, or a line of another form (its number is named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pair list")
    first, second, same = [], [], []
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            raise KFaceError(f"{path}: line {number} is {line[:80]!r}; expected: path path 0 (or 1)")
        first.append(_normal(fields[0]))
        second.append(_normal(fields[1]))
        same.append(fields[2] == "1")
    if not same:
        raise KFaceError(f"{path}: holds no pair")
    return first, second, np.array(same, dtype=bool)


def read_kface_names(path: str | os.PathLike[str]) -> list[str]:
    """Read identity names, separated by line ends, blanks, commas or semicolons; what follows a "#" is a comment.

    `./19062421/` and `"19062421"` are the identity 19062421.

    Raises:
        FileNotFoundError: no such file.
        KFaceError: no name in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold the identities to leave out, a line each")
    words = [word for _, line in read_lines(path) for word in re.split(r"[\s,;]+", line.partition("#")[0])]
    names = [posixpath.basename(_normal(word.strip("\"'"))) for word in words if word.strip("\"'")]
    if not names:
        raise KFaceError(f"{path}: names no identity to leave out")
    return names


def _normal(path: str) -> str:
    """A path as the folder's listing spells it: without "./", "//" and backslashes."""
    return posixpath.normpath(path.replace("\\", "/"))


def _pictures(
    folder: Path, chosen: list[list[int]], exclude: set[str], skip: Skip
) -> Iterator[tuple[str, list[int], str]]:
    """Identity, numbers of the variances and path of every chosen image, identities ascending."""
    wanted = [set(numbers) for numbers in chosen]

    def leave_out(place: str) -> str:
        parts = place.split("/")
        if len(parts) == 1:
            return "excluded" if place in exclude else ""
        if len(parts) > 4:
            return ""
        match = _FOLDERS[len(parts) - 2].fullmatch(parts[-1])
        return "not_selected" if match and int(match[1]) not in wanted[len(parts) - 2] else ""

    for place in image_files(folder, skip, leave_out=leave_out):
        match = _PICTURE.fullmatch(place)
        if match is None:
            skip("no_identity", place, "expected <identity>/S001/L1/E01/C1.jpg")
            continue
        name, *texts = match.groups()
        numbers = [int(text) for text in texts]
        if numbers[3] in wanted[3]:
            yield name, numbers, place
        else:
            skip("not_selected", place, "")
