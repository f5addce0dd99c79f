"""Contact sheets of an inspected set: extremes of its measures, look-alikes, scattered identities and near copies.

Shape legend: N measured faces, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.inspection import SetReport
from facelib.plots.contact_sheet import contact_sheet

COLUMNS = 8  # Faces in a row of a contact sheet.


def draw_inspection_sheets(
    report: SetReport,
    measured: Mapping[str, NDArray[np.generic]],
    load_face: Callable[[int], NDArray[np.uint8]],
    folder: Path,
) -> Iterator[Path]:
    """Draw the contact sheets of one set into a local folder.

    Args:
        measured: arrays [N]: every measure of `report`, and `identity` if it has identities.
        load_face: RGB image [H, W, 3] of face number 0 to N - 1.

    Yields:
        The PNG files, each when it is finished.
    """

    def draw(name: str, title: str, rows: Sequence[tuple[str, Sequence[int]]]) -> Path:
        path = folder / f"{name}_{report.name}.png"
        grid = [[load_face(face) for face in faces] for _, faces in rows]
        return contact_sheet(grid, path, [label for label, _ in rows], f"{report.name}: {title}")

    extremes: list[tuple[str, Sequence[int]]] = []
    for measure in report.measures:
        order = np.argsort(measured[measure])
        label = measure.replace("_", " ")
        extremes.append((f"lowest {label}", order[:COLUMNS].tolist()))
        extremes.append((f"highest {label}", order[::-1][:COLUMNS].tolist()))
    yield draw("extremes", "extremes", extremes)
    if report.identities is not None:
        yield draw("identities", "identities", _identity_rows(report, measured["identity"]))
    if report.repeats.pairs:
        copies = [(f"{bits} bits apart", [a, b]) for a, b, bits in report.repeats.pairs[:COLUMNS]]
        yield draw("copies", "near copies across identities", copies)


def _identity_rows(report: SetReport, identity: NDArray[np.generic]) -> list[tuple[str, Sequence[int]]]:
    """Pairs of look-alikes, half a row each, then scattered identities."""
    assert report.identities is not None
    rows: list[tuple[str, Sequence[int]]] = []
    for a, b, similarity in report.identities.lookalikes:
        both = [np.flatnonzero(identity == number)[: COLUMNS // 2].tolist() for number in (a, b)]
        rows.append((f"alike {similarity:.2f}: {a}, {b}", both[0] + both[1]))
    for number, similarity in report.identities.scattered:
        faces = np.flatnonzero(identity == number)[:COLUMNS].tolist()
        rows.append((f"scattered {similarity:.2f}: {number}", faces))
    return rows
