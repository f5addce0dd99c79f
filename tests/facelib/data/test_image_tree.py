"""Trees of image files: names, and folders that appear whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from facelib.data import DatasetError
from facelib.data.image_tree import ImageTree, TreeIdentity, usynthface_path

JPEG, PNG = b"\xff\xd8one", b"\x89PNG\r\n\x1a\ntwo"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_usynthface_names():
    golden = Path(__file__).parents[2] / "golden" / "discofacegan" / "usynth_stream.npz"
    with np.load(golden) as expected:
        names = expected["file_names"].tolist()
    assert names == [usynthface_path(100 + identity, index) for identity in (0, 1) for index in (0, 1, 2)]


def test_layouts():
    person = TreeIdentity(12, "0_5822654", [(3, JPEG), (7, PNG)])
    assert person.files("usynthface") == ("0000012", {"0000012_003.jpg": JPEG, "0000012_007.png": PNG})
    assert person.files("insightface") == ("0_5822654", {"0.jpg": JPEG, "1.png": PNG})
    with pytest.raises(ValueError, match="not a decodable image"):
        TreeIdentity(0, "0_0", [(0, b"text")]).files("insightface")


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    tree = ImageTree(str(tmp_path))
    tree.write("a", {"0.jpg": JPEG, "1.jpg": PNG})

    class Killed(dict):
        def items(self):
            yield "0.jpg", JPEG
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tree.write("b", Killed())
    assert files(tmp_path / "images") == {"a/0.jpg": JPEG, "a/1.jpg": PNG}
    assert any(name.startswith(".staging/b.") for name in files(tmp_path))
    tree.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    tree.write("b", {"0.jpg": JPEG})
    tree.write("b", {"0.jpg": JPEG})  # a second writer of the same
    assert files(tmp_path / "images/b") == {"0.jpg": JPEG}


def test_storage_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "images").write_bytes(b"a file")
    with pytest.raises(DatasetError, match="images"):
        ImageTree(str(tmp_path)).write("a", {"0.jpg": JPEG})
