import cv2
import numpy as np
import pytest

from facelib.plots.contact_sheet import GAP, MARGIN, contact_sheet


def test_smallest_example(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 10, 3), dtype=np.uint8)
    path = contact_sheet(images, tmp_path / "sheet.png")
    sheet = cv2.imread(str(path))[:, :, ::-1]
    assert sheet.shape == (2 * MARGIN + 40 + GAP, 2 * MARGIN + 30 + 2 * GAP, 3)
    for row in range(2):
        for column in range(3):
            y, x = MARGIN + row * (20 + GAP), MARGIN + column * (10 + GAP)
            np.testing.assert_array_equal(sheet[y : y + 20, x : x + 10], images[row, column])
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_labels_title_missing_images_and_uneven_rows(tmp_path):
    face = np.zeros((16, 16, 3), np.uint8)
    rows = [[face, None, face], [face]]
    plain = cv2.imread(str(contact_sheet(rows, tmp_path / "a.png")))
    labeled = cv2.imread(str(contact_sheet(rows, tmp_path / "new" / "b.png", ["first", "zweite"], title="Faces")))
    assert labeled.shape[0] > plain.shape[0]
    assert labeled.shape[1] > plain.shape[1]
    assert (plain[MARGIN, MARGIN + 16 + GAP] == 232).all()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([[None]], None, "holds no image"),
        ([], None, "holds no image"),
        ([[np.zeros((4, 4, 3))]], None, r"images\[0\]\[0\] must be uint8"),
        ([[np.zeros((4, 4), np.uint8)]], None, r"\[4, 4\]"),
        ([[np.zeros((4, 4, 3), np.uint8)]], ["a", "b"], "2 texts for 1 rows"),
    ],
)
def test_refuses(tmp_path, images, labels, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(images, tmp_path / "sheet.png", labels)
    assert list(tmp_path.iterdir()) == []
