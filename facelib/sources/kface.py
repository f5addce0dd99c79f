"""K-FACE, the KIST face database: faces under controlled accessory, light, expression and pose (Choi et al. 2021).

Images are at `<identity>/<S001..S006>/<L1..L30>/<E01..E03>/<C1..C20>.jpg`: accessory, lux, expression, pose.
Variances are chosen as the published training lists write them: `s1~6`, `l1~6,8~30`, `e1~3`, `c1~20`. Cameras are
fixed, so landmarks are detected on the plain image of each identity and pose (S001/L1/E01) and reused for all its
other images.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Letter of a variance: its name and its highest number.
VARIANCES = {"s": ("accessories", 6), "l": ("luxes", 30), "e": ("expressions", 3), "c": ("poses", 20)}


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

    Attributes:
        names: identity name of each class.
        paths: images relative to `folder`, identities ascending.
        classes: class of each image, int64 [images].

    Raises:
        FileNotFoundError: no such folder.
        KFaceError: a variance that does not exist, or no image left.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        accessories: str = "s1~6",
        luxes: str = "l1~30",
        expressions: str = "e1~3",
        poses: str = "c1~20",
        exclude: Iterable[str] = (),
    ) -> None:
        self.folder = Path(folder)
        chosen = self.check(self.folder, accessories, luxes, expressions, poses)
        left_out = set(exclude)
        self.names: list[str] = []
        self.paths: list[str] = []
        counts: list[int] = []
        for name in sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir()):
            found = [] if name in left_out else list(_pictures(self.folder, name, chosen))
            if found:
                self.names.append(name)
                self.paths.extend(found)
                counts.append(len(found))
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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            raise KFaceError(f"{path}: line {number} is {line[:80]!r}; expected: path path 0 (or 1)")
        first.append(fields[0])
        second.append(fields[1])
        same.append(fields[2] == "1")
    if not same:
        raise KFaceError(f"{path}: holds no pair")
    return first, second, np.array(same, dtype=bool)


def _pictures(folder: Path, name: str, chosen: list[list[int]]) -> Iterator[str]:
    """Paths of the chosen images of one identity that exist, in the order of their variances."""
    accessories, luxes, expressions, poses = chosen
    for accessory in accessories:
        for lux in luxes:
            for expression in expressions:
                place = f"{name}/S{accessory:03d}/L{lux}/E{expression:02d}"
                # One listing per folder instead of one look-up per image: K-FACE holds millions.
                try:
                    present = set(os.listdir(folder / place))
                except FileNotFoundError:
                    continue
                yield from (f"{place}/C{pose}.jpg" for pose in poses if f"C{pose}.jpg" in present)
