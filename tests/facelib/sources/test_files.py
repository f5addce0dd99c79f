import pytest

from facelib.sources.files import check_folder, is_inside, locate, picture_files, read_picture
from facelib.sources.source import UnreadableImageError


def test_smallest_example(tmp_path):
    for name in ("b/2.JPG", "a/1.png", "a/notes.txt", "a/.hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    skipped = []
    assert list(picture_files(tmp_path, lambda *skip: skipped.append(skip))) == ["a/1.png", "b/2.JPG"]
    assert sorted(path for _, path, _ in skipped) == ["a/.hidden.jpg", "a/notes.txt"]
    assert read_picture(tmp_path, "a/1.png") == b"x"


def test_links_out_of_the_folder_are_skipped(tmp_path):
    root, secret = tmp_path / "faces", tmp_path / "secret.jpg"
    root.mkdir()
    secret.write_bytes(b"x")
    (root / "link.jpg").symlink_to(secret)
    skipped = []
    assert list(picture_files(root, lambda *skip: skipped.append(skip))) == []
    assert skipped[0][:2] == ("outside_folder", "link.jpg")
    assert list(picture_files(root, print, follow_links=True)) == ["link.jpg"]
    with pytest.raises(UnreadableImageError):
        read_picture(root, "link.jpg")
    assert locate(root, "link.jpg").reason == locate(root, "../secret.jpg").reason == "outside_folder"
    assert locate(root, "none.jpg").reason == "missing_file"


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; give the one that holds faces"):
        check_folder(tmp_path / "none", "faces")
    (tmp_path / "empty.jpg").touch()
    for name in ("empty.jpg", "none.jpg"):
        with pytest.raises(UnreadableImageError):
            read_picture(tmp_path, name)
    assert is_inside(str(tmp_path / "a"), tmp_path)
    assert not is_inside(f"{tmp_path}-b", tmp_path)
