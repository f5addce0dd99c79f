"""Encoded images and image files, read where they are embedded."""

import numpy as np
import pytest
from support.datasets import pattern

from facelib.data import encode_image
from facelib.evaluation.protocols import EncodedImages, ImageFiles


def test_stored_faces_name_what_is_wrong(tmp_path):
    for name, size in (("a.jpg", 112), ("b.jpg", 96)):
        (tmp_path / name).write_bytes(encode_image(pattern(1, 1, size)))
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    assert ImageFiles(str(tmp_path), ["a.jpg"]).decode().shape == (1, 112, 112, 3)
    with pytest.raises(ValueError, match=r"b\.jpg has 96x96 pixels instead of 112x112"):
        ImageFiles(str(tmp_path), ["a.jpg", "b.jpg"]).decode()
    with pytest.raises(ValueError, match=r"c\.jpg: image: 10 bytes that are not a decodable image"):
        ImageFiles(str(tmp_path), ["c.jpg"]).decode()
    with pytest.raises(ValueError, match="faces: picture 1: image: empty data"):
        EncodedImages([encode_image(pattern(1, 1)), b""]).decode()
    # A part, as workers get it, counts as the whole set does.
    images = [encode_image(pattern(1, 1))] * 5 + [encode_image(pattern(1, 1, 96))]
    with pytest.raises(ValueError, match="lfw: picture 5 has 96x96 pixels instead of 112x112"):
        EncodedImages(images, "lfw").part(2, 6).part(2, 4).decode()


def test_fingerprints_change_with_the_faces(tmp_path):
    names = ["a.jpg", "b.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(encode_image(pattern(1, len(name))))
    points = np.zeros((2, 5, 2), np.float32)
    stored = {
        ImageFiles(str(tmp_path), names).fingerprint,
        ImageFiles(str(tmp_path), names[::-1]).fingerprint,
        ImageFiles(str(tmp_path), names, points).fingerprint,
        ImageFiles(str(tmp_path), names, points + 1).fingerprint,
        ImageFiles(str(tmp_path), names, points, size=96).fingerprint,
    }
    (tmp_path / "b.jpg").write_bytes(encode_image(pattern(2, 2, 100)))
    stored.add(ImageFiles(str(tmp_path), names).fingerprint)
    assert len(stored) == 6
    assert EncodedImages([b"a", b"bc"]).fingerprint != EncodedImages([b"ab", b"c"]).fingerprint
    assert ImageFiles(str(tmp_path), names).fingerprint == ImageFiles(str(tmp_path), names).fingerprint
