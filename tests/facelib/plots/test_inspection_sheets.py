"""Contact sheets of an inspected set."""

import numpy as np
from support.datasets import pattern

from facelib.inspection import count_repeats, inspect_identities, summarize
from facelib.inspection.report import SetReport
from facelib.plots.inspection_sheets import draw_inspection_sheets
from facelib.sources.duplicates import perceptual_hash


def test_extremes_identities_and_copies(tmp_path):
    identity = np.repeat(np.arange(6), 2)
    images = [pattern(int(i), n % 2) for n, i in enumerate(identity)]
    images[2] = images[0]  # A copy across identities.
    rng = np.random.default_rng(0)
    measured = {"brightness": np.array([image.mean() for image in images]), "identity": identity}
    hashes = np.stack([perceptual_hash(image) for image in images])
    report = SetReport(
        name="mine",
        counts={"aligned": 12},
        faces=12,
        measures={"brightness": summarize(measured["brightness"], identity)},
        repeats=count_repeats(hashes, identity, 8),
        identities=inspect_identities(rng.normal(size=(12, 4)).astype(np.float32), identity, 10, 0),
    )
    loaded = []

    def load_face(face):
        loaded.append(face)
        return images[face]

    paths = list(draw_inspection_sheets(report, measured, load_face, tmp_path))
    assert [path.name for path in paths] == ["extremes_mine.png", "identities_mine.png", "copies_mine.png"]
    assert all(path.stat().st_size > 5_000 for path in paths)
    order = np.argsort(measured["brightness"])
    assert loaded[:16] == [*order[:8], *order[::-1][:8]]
