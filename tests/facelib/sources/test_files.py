import unicodedata

import pytest

from facelib.sources.files import check_folder, locate, read_picture
from facelib.sources.source import UnreadableImageError


def test_smallest_example(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert locate(tmp_path, "a.jpg") == "a.jpg"
    assert read_picture(tmp_path, "a.jpg") == b"x"


def test_one_image_has_one_place(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("b/a.jpg")
    for path in ("./b/a.jpg", "b//a.jpg", "b/../b/a.jpg", f"{tmp_path}/b/a.jpg", "b\\a.jpg", "link.jpg"):
        assert locate(tmp_path, path) == "b/a.jpg"


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_accents_in_either_form(tmp_path, listed, stored):
    place = unicodedata.normalize(stored, "josé/ü.jpg")
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_bytes(b"x")
    assert locate(tmp_path, unicodedata.normalize(listed, "josé\\ü.jpg")) == place


def test_paths_out_of_the_folder_are_refused(tmp_path):
    root, secret = tmp_path / "faces", tmp_path / "secret.jpg"
    root.mkdir()
    secret.write_bytes(b"x")
    (root / "link.jpg").symlink_to(secret)
    with pytest.raises(UnreadableImageError, match="outside_folder"):
        read_picture(root, "link.jpg")
    for path in ("link.jpg", "../secret.jpg", "x/../../secret.jpg", str(secret)):
        with pytest.raises(UnreadableImageError, match="outside_folder"):
            locate(root, path)
    with pytest.raises(UnreadableImageError, match="missing_file"):
        locate(root, "none.jpg")
    assert locate(root, "./link.jpg", follow_links=True) == "link.jpg"
    with pytest.raises(UnreadableImageError, match="outside_folder"):
        locate(root, "../secret.jpg", follow_links=True)


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; give the one that holds faces"):
        check_folder(tmp_path / "none", "faces")
    (tmp_path / "empty.jpg").touch()
    for name in ("empty.jpg", "none.jpg"):
        with pytest.raises(UnreadableImageError):
            read_picture(tmp_path, name)
