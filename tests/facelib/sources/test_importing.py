import struct
import zlib

import cv2
import numpy as np
import pytest
from support.datasets import pattern

from facelib.alignment import Detections, align_face
from facelib.config import AlignSettings, ImportSettings
from facelib.data import decode_image, encode_image
from facelib.sources import FaceSource, IndexBuilder, build_source
from facelib.sources.importing import PartImporter, References, sharpness
from facelib.sources.source import count_skipped

LANDMARKS = np.array([(38, 52), (74, 52), (56, 72), (42, 92), (71, 92)], np.float32) * 1.5 + 20


class MemorySource(FaceSource):
    """{(person, place): bytes}, with the landmarks of all pictures, or borrowed from one."""

    def __init__(self, pictures, landmarks=None, borrow=""):
        self.pictures, self.landmarks, self.borrow = pictures, landmarks, borrow

    def index(self):
        builder = IndexBuilder()
        for person, place in self.pictures:
            builder.add(person, place, landmarks=self.landmarks, score=0.7, landmark_place=self.borrow)
        return builder.build()

    def read(self, entry):
        return next(data for (_, place), data in self.pictures.items() if place == entry.place)


class FixedDetector:
    """Finds the same face in every picture but black ones, and counts the pictures."""

    def __init__(self):
        self.seen = 0

    def detect(self, images):
        self.seen += len(images)
        box, score = np.array([[40, 40, 160, 170]], np.float32), np.array([0.9], np.float32)
        found = Detections(box, score, LANDMARKS[None])
        return [found if image.any() else Detections.empty() for image in images]


def run(source, detector=None, embed=None, references=None, align=None, **cfg):
    settings = ImportSettings(**{"alignment": "none", **cfg})
    importer = PartImporter(source, "test", settings, AlignSettings(**(align or {})), detector, embed, references)
    index = source.index()
    part = importer.run(index.entries(0, len(index)))
    assert len(part.faces) + len(part.skipped) == len(index)
    return part


def crop(identity, index=0, size=112):
    return encode_image(pattern(identity, index, size))


def places(part):
    return [face.source for face in part.faces]


def reasons(part):
    return count_skipped(part.skipped)


def bomb():
    """A PNG of a few bytes that announces 60,000 x 60,000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_smallest_example():
    """Crops are stored byte for byte, JPEG or PNG; nothing is known of their landmarks."""
    png = cv2.imencode(".png", pattern(1, 0))[1].tobytes()
    part = run(MemorySource({("ann", "1.jpg"): crop(0), ("ann", "2.png"): png, ("bob", "3.jpg"): crop(2)}))
    assert [face.image for face in part.faces] == [crop(0), png, crop(2)]
    assert [(face.identity, face.index) for face in part.faces] == [(0, 0), (0, 1), (1, 0)]
    assert places(part) == ["test:1.jpg", "test:2.png", "test:3.jpg"]
    assert np.isnan(part.faces[0].landmarks).all()


@pytest.mark.parametrize("verify", ["decode", "header"])
def test_damage_is_counted_with_its_place(verify):
    whole = crop(0)
    pictures = {
        "a whole": whole, "b text": b"not a picture", "c truncated": whole[: len(whole) // 2], "d bomb": bomb(),
        "e wide": encode_image(np.zeros((112, 200, 3), np.uint8)), "f half a header": whole[:20],
    }  # fmt: skip
    part = run(MemorySource({("ann", place): data for place, data in pictures.items()}), verify=verify)
    assert places(part) == ["test:a whole"]
    assert [(s.place, s.reason, s.damage) for s in part.skipped] == [
        ("b text", "not_a_picture", True), ("c truncated", "damaged_picture", True),
        ("d bomb", "too_many_pixels", True), ("e wide", "not_square", False),
        ("f half a header", "not_a_picture", True),
    ]  # fmt: skip


def test_the_limit_of_pixels_holds_before_decoding():
    part = run(MemorySource({("ann", "1"): crop(0)}), max_pixels=100)
    assert reasons(part) == {"too_many_pixels": 1}


def test_crops_of_another_size_are_resized():
    part = run(MemorySource({("ann", "1"): crop(0, size=224), ("ann", "2"): crop(1, size=60)}))
    assert part.resized == 2
    assert [decode_image(face.image).shape for face in part.faces] == [(112, 112, 3)] * 2


def test_alignment_by_given_landmarks():
    pictures = {("ann", "1"): crop(0, size=250)}
    part = run(MemorySource(pictures, LANDMARKS), alignment="given", align={"min_score": 0.5})
    expected = align_face(decode_image(pictures["ann", "1"]), LANDMARKS)
    difference = decode_image(part.faces[0].image).astype(int) - expected
    assert np.abs(difference).mean() < 3
    assert (part.faces[0].score, part.faces[0].landmarks.tolist()) == (pytest.approx(0.7), LANDMARKS.tolist())
    assert reasons(run(MemorySource(pictures, LANDMARKS), alignment="given")) == {"low_score": 1}
    assert reasons(run(MemorySource(pictures), alignment="given", align={"min_score": 0})) == {"no_landmarks": 1}
    coincide = np.ones((5, 2), np.float32)
    part = run(MemorySource(pictures, coincide), alignment="given", align={"min_score": 0})
    assert reasons(part) == {"degenerate_landmarks": 1}


def test_alignment_by_a_detector():
    black = encode_image(np.zeros((250, 250, 3), np.uint8))
    pictures = {("ann", f"{n:03d}"): crop(n, size=250) for n in range(70)} | {("ann", "black"): black}
    part = run(MemorySource(pictures), FixedDetector(), alignment="detect", threads=3)
    assert places(part) == [f"test:{n:03d}" for n in range(70)]
    assert reasons(part) == {"no_face": 1}
    assert np.array_equal(part.faces[0].landmarks, LANDMARKS)
    again = run(MemorySource(pictures), FixedDetector(), alignment="detect")
    assert [face.image for face in again.faces] == [face.image for face in part.faces]


def test_landmarks_of_one_picture_serve_all():
    pictures = {("ann", f"{n}"): crop(n, size=250) for n in range(40)}
    detector = FixedDetector()
    part = run(MemorySource(pictures, borrow="3"), detector, alignment="detect")
    assert (len(part.faces), detector.seen) == (40, 1)
    pictures["ann", "3"] = b"damaged"
    part = run(MemorySource(pictures, borrow="3"), FixedDetector(), alignment="detect")
    assert reasons(part) == {"no_landmarks": 39, "not_a_picture": 1}
    assert "3: not_a_picture" in part.skipped[0].detail


def test_quality_filters():
    sharp, soft = pattern(0, 0), cv2.GaussianBlur(pattern(0, 0), (31, 31), 0)
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
    assert sharpness(noise) > sharpness(sharp) > sharpness(soft)
    pictures = {("ann", "noise"): encode_image(noise), ("ann", "soft"): encode_image(soft)}
    assert places(run(MemorySource(pictures), min_sharpness=50)) == ["test:noise"]
    small = {("ann", "1"): crop(0, size=40), ("ann", "2"): crop(0, size=112)}
    part = run(MemorySource(small), min_pixels=100)
    assert places(part) == ["test:2"]
    assert "covers 40 pixels" in part.skipped[0].detail
    # The face of LANDMARKS is 1.5 times the template's.
    large = {("ann", "1"): crop(0, size=250)}
    for limit, kept in ((160, 1), (180, 0)):
        given = MemorySource(large, LANDMARKS)
        assert len(run(given, alignment="given", align={"min_score": 0}, min_pixels=limit).faces) == kept


def test_duplicates():
    again = encode_image(decode_image(crop(0)), 40)
    pictures = {
        ("ann", "1"): crop(0), ("ann", "2"): crop(0), ("ann", "3"): again, ("ann", "4"): crop(1), ("bob", "5"): crop(0),
    }  # fmt: skip
    source = MemorySource(pictures)
    assert len(run(source).faces) == 5
    assert places(run(source, duplicates="exact")) == ["test:1", "test:3", "test:4", "test:5"]
    part = run(source, duplicates="hash")
    assert places(part) == ["test:1", "test:4", "test:5"]
    assert part.skipped[0].detail == "repeats 1"
    prints = {(identity, index): bits for identity, index, bits in part.fingerprints}
    assert prints[0, 0] == prints[1, 0]  # the same picture under two people: the report finds it


def mean_color(images):
    return np.stack([decode_image(data).reshape(-1, 3).mean(0) - 128 for data in images]).astype(np.float32)


def plain(red, green, blue):
    return encode_image(np.full((112, 112, 3), (red, green, blue), np.uint8))


def test_embeddings_for_duplicates_and_overlap():
    pictures = {
        ("ann", "1"): plain(250, 128, 128), ("ann", "2"): plain(230, 128, 128), ("ann", "3"): plain(250, 220, 128),
        ("bob", "4"): plain(128, 250, 128), ("eve", "5"): plain(128, 128, 250),
    }  # fmt: skip
    source = MemorySource(pictures)
    part = run(source, embed=mean_color, duplicates="embedding", duplicate_similarity=0.99)
    assert places(part) == ["test:1", "test:3", "test:4", "test:5"]
    references = References(np.array([[0, 0, -1], [0, 1, 0]], np.float32), ["set, picture 0", "set, picture 1"])
    part = run(source, embed=mean_color, references=references, overlap_similarity=0.9)
    assert places(part) == ["test:1", "test:2", "test:3", "test:5"]
    assert [(o.name, o.picture, o.similarity > 0.99) for o in part.overlaps] == [("bob", "set, picture 1", True)]
    part = run(source, embed=mean_color, references=references, overlap_similarity=0.9, overlap="report")
    assert (len(part.faces), len(part.overlaps)) == (5, 1)


def test_min_images_counts_what_is_left():
    pictures = {("ann", "1"): crop(0), ("ann", "2"): crop(0), ("bob", "3"): crop(1), ("bob", "4"): crop(2)}
    part = run(MemorySource(pictures), duplicates="exact", min_images=2)
    assert places(part) == ["test:3", "test:4"]
    assert reasons(part) == {"duplicate": 1, "few_images": 1}


def test_nothing_at_all():
    part = run(MemorySource({("ann", "1"): b"x"}))
    assert (part.faces, reasons(part)) == ([], {"not_a_picture": 1})


def test_a_source_that_fails_costs_one_picture_not_the_place():
    class Failing(MemorySource):
        def read(self, entry):
            return {"1": crop(0)}[entry.place]

    part = run(Failing({("ann", "1"): b"", ("ann", "2"): b""}))
    assert [str(s) for s in part.skipped] == ["2: source_error (KeyError: '2')"]
    assert part.skipped[0].damage


def test_on_files(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").write_bytes(crop(0))
    (tmp_path / "ann" / "2.jpg").write_bytes(b"")
    part = run(build_source("folders", str(tmp_path)))
    assert reasons(part) == {"empty_file": 1}
    assert places(part) == ["test:ann/1.jpg"]
