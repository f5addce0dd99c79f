"""Spread of measures between identities, and the table of sets side by side."""

import numpy as np
import pytest
from support.embeddings import clustered_embeddings

from facelib.inspection import (
    Repeats,
    SetReport,
    compare_table,
    inspect_identities,
    summarize,
)


def test_share_between_identities():
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(300), 4)
    people_part, rest = np.repeat(rng.normal(size=300), 4), rng.normal(size=1200)
    assert summarize(people_part, numbers).between == pytest.approx(1)
    assert summarize(rest, numbers).between == pytest.approx(0, abs=0.08)
    assert summarize(people_part + rest, numbers).between == pytest.approx(0.5, abs=0.08)
    assert summarize([1.0, 2.0], [0, 1]).between is None
    assert summarize([2.0] * 4, [0, 0, 1, 1]).between == 0
    found = summarize(np.arange(101))
    assert (found.mean, found.low, found.middle, found.high, found.between) == (50, 5, 50, 95, None)
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_table_and_numbers():
    from rich.console import Console

    identities = inspect_identities(*clustered_embeddings())
    counts = {"requested": 62, "aligned": 60, "rejected:no_face": 2}
    full = SetReport("a", counts, 60, {"yaw": summarize([1.0, 2.0])}, Repeats(1, 0, []), identities)
    plain = SetReport("b", {"aligned": 5}, 5, {}, Repeats(0, 0, []), None)
    console = Console(width=200, record=True)
    console.print(compare_table({"a": full, "b": plain}))
    text = console.export_text()
    assert "60 of 62, 96.77% (no_face 2)" in text
    assert "not known" in text
    assert "rank 1" in text
    assert full.numbers()["yaw/mean"] == 1.5
    assert "identities/auc" in full.numbers()
    assert "identities/auc" not in plain.numbers()
