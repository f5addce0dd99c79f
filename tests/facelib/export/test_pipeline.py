import cv2
import numpy as np
import pytest
from support.datasets import pattern

from facelib.alignment import align_face
from facelib.data import decode_image, encode_image
from facelib.embedding import embed_images
from facelib.export import FacePipeline
from facelib.export.pipeline import BATCH


def test_images_become_embeddings(backbone, onnx, portrait):
    pipeline = FacePipeline(onnx)
    face, damaged, blank = pipeline([portrait, b"not an image", encode_image(np.zeros((128, 128, 3), np.uint8))])
    assert np.linalg.norm(face["embedding"]) == pytest.approx(1, abs=1e-5)
    assert (face["faces"], face["rejected"], len(face["landmarks"])) == (1, "", 10)
    assert face["score"] > 0.8
    left, top, right, bottom = face["box"]
    assert 0 <= left < right <= 130
    assert 0 <= top < bottom <= 130
    # The same crop through PyTorch.
    landmarks = np.reshape(face["landmarks"], (5, 2))
    crop = align_face(decode_image(portrait), landmarks)
    expected = embed_images(backbone, crop[None])[0]
    np.testing.assert_allclose(face["embedding"], expected / np.linalg.norm(expected), atol=2e-4)
    assert damaged["embedding"] == blank["embedding"] == []
    assert "not a decodable image" in damaged["rejected"]
    assert blank["rejected"].startswith("no_face")


def test_aligned_crops_skip_detection(backbone, onnx):
    faces = [pattern(1, 0), pattern(2, 0), pattern(3, 0, 96)]
    rows = FacePipeline(onnx)([encode_image(f) for f in faces], aligned=True, flip=False)
    expected = embed_images(backbone, [encode_image(f) for f in faces[:2]], flip=False)
    for row, vector in zip(rows, expected, strict=False):
        np.testing.assert_allclose(row["embedding"], vector / np.linalg.norm(vector), atol=2e-4)
    assert rows[2]["rejected"] == "96x96 pixels; an aligned face has 112x112"
    assert FacePipeline(onnx)([]) == []


def test_results_keep_the_order_of_the_images_across_batches(onnx):
    crops = [encode_image(pattern(i % 3, 0)) for i in range(BATCH + 2)]
    crops[1] = b"damaged"
    rows = FacePipeline(onnx)(crops, aligned=True)
    assert [number for number, row in enumerate(rows) if row["rejected"]] == [1]
    np.testing.assert_allclose(rows[BATCH + 1]["embedding"], rows[2]["embedding"], atol=1e-5)
    assert np.abs(np.subtract(rows[BATCH + 1]["embedding"], rows[0]["embedding"])).max() > 1e-3


def test_adding_the_flipped_face_makes_embeddings_independent_of_flips(onnx):
    face = pattern(1, 0)
    images = [cv2.imencode(".png", image)[1].tobytes() for image in (face, face[:, ::-1])]
    first, flipped = FacePipeline(onnx)(images, aligned=True, flip=True)
    np.testing.assert_allclose(first["embedding"], flipped["embedding"], atol=1e-5)


def test_an_unknown_detector_is_reported_with_the_first_image_to_detect(onnx):
    pipeline = FacePipeline(onnx, detector="unknown")
    crop = encode_image(pattern(1, 0))
    assert pipeline([crop], aligned=True)[0]["rejected"] == ""
    with pytest.raises(ValueError, match="unknown"):
        pipeline([crop])
