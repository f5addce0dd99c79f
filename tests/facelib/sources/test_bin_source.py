import numpy as np
import pytest

from facelib.sources import build_source, write_bin
from facelib.sources.groups import joined_groups


def test_smallest_example(tmp_path):
    """a-b and b-c are genuine: three pictures of one person; d is only known not to be a."""
    write_bin(tmp_path / "a.bin", [b"a", b"b", b"a", b"d"], [True, False])
    write_bin(tmp_path / "b.bin", [b"b", b"c"], [True])
    source = build_source("bin", f"{tmp_path}/a.bin+{tmp_path}/b.bin")
    assert source.alignment == "none"
    index = source.index()
    assert index.names == ["group 0", "group 1"]
    assert [(e.name, source.read(e)) for e in index.entries(0, len(index))] == [
        ("group 0", b"a"), ("group 0", b"b"), ("group 0", b"c"), ("group 1", b"d"),
    ]  # fmt: skip
    assert [(s.reason, s.place, s.damage) for s in index.skipped] == [
        ("in_several_pairs", "image 2", False), ("in_several_pairs", "image 4", False),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    rng = np.random.default_rng(seed)
    images = [b"%d" % n for n in rng.integers(0, 12, 40)]
    write_bin(tmp_path / "a.BIN", images, rng.integers(0, 2, 20).astype(bool))
    index = build_source("bin", f"{tmp_path}/a.BIN+{tmp_path}/a.BIN").index()
    assert len(index) + len(index.skipped) == 80
    assert len(index) == len(set(images))


def test_joined_groups():
    assert joined_groups(6, [(5, 1), (3, 4), (1, 0)]).tolist() == [0, 0, 1, 2, 2, 0]
    assert joined_groups(3, []).tolist() == [0, 1, 2]
