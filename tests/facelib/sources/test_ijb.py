import numpy as np
import pytest

from facelib.sources import IJBMetadata

IMAGES = "1.jpg 10 100\n2.jpg 10 101\n3.jpg 20 102\n"
PAIRS = "10 20 0\n10 10 1\n"
POINTS = [" ".join(f"{n + 10 * i}.5" for n in range(10)) for i in range(3)]
LANDMARKS = "".join(f"{name}.jpg {POINTS[name - 1]} 0.9{name}\n" for name in (1, 2, 3))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    write(tmp_path / "meta", images=IMAGES, pairs=PAIRS, landmarks=LANDMARKS)
    return tmp_path


def write(place, prefix="ijbc", **contents):
    names = {"images": "face_tid_mid", "pairs": "template_pair_label", "landmarks": "name_5pts_score"}
    for kind, text in contents.items():
        (place / f"{prefix}_{names[kind]}.txt").write_text(text)


def test_smallest_example(folder):
    metadata = IJBMetadata(folder)
    assert (len(metadata), metadata.subset) == (3, "ijbc")
    assert metadata.names == ["1.jpg", "2.jpg", "3.jpg"]
    assert metadata.templates.tolist() == [10, 10, 20]
    assert metadata.medias.tolist() == [100, 101, 102]
    assert (metadata.first.tolist(), metadata.second.tolist()) == ([10, 10], [20, 10])
    assert metadata.labels.tolist() == [False, True]
    assert metadata.landmarks.shape == (3, 5, 2)
    assert metadata.landmarks[1].ravel().tolist() == [n + 10.5 for n in range(10)]
    np.testing.assert_allclose(metadata.scores, [0.91, 0.92, 0.93])
    assert metadata.image_path(2) == folder / "loose_crop" / "3.jpg"


def test_layout_without_landmarks_and_without_meta_folder(tmp_path):
    write(tmp_path, prefix="ijbb", images=IMAGES, pairs=PAIRS)
    metadata = IJBMetadata(tmp_path)
    assert metadata.subset == "ijbb"
    assert metadata.landmarks is None
    assert metadata.scores is None
    assert metadata.image_path(0) == tmp_path / "1.jpg"


def test_landmarks_in_another_order_are_matched_by_name(folder):
    write(folder / "meta", landmarks="".join(reversed(LANDMARKS.splitlines(keepends=True))))
    assert IJBMetadata(folder).landmarks[0, 0].tolist() == [0.5, 1.5]


def test_both_sets_in_one_folder_need_a_choice(folder):
    write(folder / "meta", prefix="ijbb", images=IMAGES.splitlines()[2], pairs="20 20 1\n")
    with pytest.raises(ValueError, match="ijbb and ijbc"):
        IJBMetadata(folder)
    assert len(IJBMetadata(folder, subset="ijbb")) == 1
    assert len(IJBMetadata(folder, subset="IJBC")) == 3


def test_tabs(folder):
    write(folder / "meta", images=IMAGES.replace(" ", "\t"), pairs=PAIRS.replace(" ", "\t"))
    assert IJBMetadata(folder).templates.tolist() == [10, 10, 20]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"images": "1.jpg 10\n"}, r"face_tid_mid\.txt: expected the columns image, template, medium"),
        ({"images": "1.jpg ten 3\n"}, r"face_tid_mid\.txt"),
        ({"pairs": "10 20 0\n10 10 2\n"}, r"template_pair_label\.txt: line 2 has label 2"),
        ({"pairs": "10 30 0\n"}, "second template 30 of a pair has no image"),
        ({"landmarks": LANDMARKS.splitlines()[0]}, "no landmarks for image 2.jpg"),
        ({"landmarks": "1.jpg 3 4\n"}, r"name_5pts_score\.txt"),
        ({"pairs": ""}, r"template_pair_label\.txt"),
    ],
)
def test_damaged_files_are_named(folder, contents, message):
    write(folder / "meta", **contents)
    with pytest.raises(ValueError, match=message):
        IJBMetadata(folder)


def test_missing_files(folder, tmp_path):
    (folder / "meta" / "ijbc_template_pair_label.txt").unlink()
    with pytest.raises(FileNotFoundError, match="template_pair_label"):
        IJBMetadata(folder)
    with pytest.raises(FileNotFoundError, match="face_tid_mid"):
        IJBMetadata(tmp_path / "nowhere")
