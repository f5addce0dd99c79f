import numpy as np
import pytest

from facelib.sources import SourceError, build_source


@pytest.fixture
def folder(tmp_path):
    """Templates 10 and 30 show one subject, 20 another; picture 1 stands in two templates, picture 4 is missing."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "loose_crop" / f"{number}.jpg").write_bytes(b"picture %d" % number)
    meta = tmp_path / "meta"
    (meta / "ijbc_face_tid_mid.txt").write_text("1.jpg 10 1\n2.jpg 20 2\n3.jpg 30 3\n1.jpg 30 4\n4.jpg 20 5\n")
    (meta / "ijbc_template_pair_label.txt").write_text("10 20 0\n10 30 1\n20 30 0\n")
    points = " ".join(str(float(n)) for n in range(10))
    (meta / "ijbc_name_5pts_score.txt").write_text("".join(f"{n}.jpg {points} 0.{n}\n" for n in (1, 2, 3, 1, 4)))
    return tmp_path


def test_smallest_example(folder):
    source = build_source("ijb", str(folder))
    assert source.alignment == "given"
    index = source.index()
    assert [(e.name, e.place) for e in index.entries(0, 3)] == [
        ("subject 0", "loose_crop/1.jpg"), ("subject 0", "loose_crop/3.jpg"), ("subject 1", "loose_crop/2.jpg"),
    ]  # fmt: skip
    assert sorted(s.reason for s in index.skipped) == ["listed_twice", "missing_file"]
    entry = index.entries(1, 2)[0]
    assert source.read(entry) == b"picture 3"
    assert entry.landmarks.ravel().tolist() == list(range(10))
    assert entry.score == np.float32(0.3)


def test_templates_as_identities(folder):
    index = build_source("ijb", str(folder), identities="templates").index()
    assert index.names == ["template 10", "template 20", "template 30"]


@pytest.mark.parametrize("seed", range(5))
def test_every_line_is_listed_or_left_out(folder, seed):
    rng = np.random.default_rng(seed)
    names = [f"{('', './', '../')[rng.integers(3)]}{rng.integers(1, 5)}.jpg" for _ in range(20)]
    templates = [10, 20, 30, *rng.choice([10, 20, 30], 17).tolist()]
    lines = [f"{name} {template} {n}\n" for n, (name, template) in enumerate(zip(names, templates))]
    (folder / "meta" / "ijbc_face_tid_mid.txt").write_text("".join(lines))
    (folder / "meta" / "ijbc_name_5pts_score.txt").unlink()
    for identities in ("subjects", "templates"):
        index = build_source("ijb", str(folder), identities=identities).index()
        assert len(index) + len(index.skipped) == 20


def test_without_landmarks_they_are_to_be_detected(folder):
    (folder / "meta" / "ijbc_name_5pts_score.txt").unlink()
    source = build_source("ijb", str(folder), subset="ijbc")
    assert source.alignment == "detect"
    assert source.index().landmarks is None


def test_refuses(folder, tmp_path):
    with pytest.raises(SourceError, match="identities is 'people'"):
        build_source("ijb", str(folder), identities="people")
    with pytest.raises(FileNotFoundError, match="ijbb"):
        build_source("ijb", str(folder), subset="ijbb")
