"""Pictures to crops or counted rejections."""

import matplotlib.cbook
import matplotlib.image
import numpy as np
import pytest

from facelib.alignment import (
    TEMPLATES,
    AlignedFace,
    Aligner,
    Detections,
    Rejection,
    align_face,
    build_detector,
    count_rejections,
    select_face,
    similarity_transform,
)
from facelib.synthesis import build_generator


class Prepared:
    """A detector that finds what a test gives it: image k shows the k-th entry."""

    def __init__(self, *found: Detections) -> None:
        self.found = found

    def detect(self, images):
        return list(self.found[: len(images)])


def faces(*rows: tuple[float, float, float, float, float]) -> Detections:
    """Detections of (left, top, right, bottom, score), landmarks in each box as in a crop."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    side = (table[:, 2:4] - table[:, :2])[:, None]
    landmarks = table[:, None, :2] + TEMPLATES["arcface"] / 112 * side
    return Detections(table[:, :4], table[:, 4], landmarks.astype(np.float32))


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return matplotlib.image.imread(file, format="jpg").copy()


def blank(count: int) -> list[np.ndarray]:
    return [np.full((100, 200, 3), 90, np.uint8)] * count


def test_a_portrait_becomes_a_crop_and_noise_is_rejected(portrait):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    aligner = Aligner(build_detector("retinaface"))
    face, rejection = aligner.align([portrait, noise])
    assert isinstance(face, AlignedFace)
    np.testing.assert_array_equal(face.image, align_face(portrait, face.landmarks))
    assert rejection.reason == "no_face"
    # Found again in its own crop, the landmarks lie near the template.
    [again] = build_detector("retinaface").detect([face.image])
    assert np.abs(again.landmarks[0] - TEMPLATES["arcface"]).max() < 8


def test_rendered_faces_are_found_and_aligned():
    generator = build_generator("morphable", image_size=128)
    identities = np.arange(12)
    factors = generator.image_factors(0, identities, np.zeros_like(identities))
    renders = generator.render(generator.identity_codes(0, identities), factors)
    results = Aligner(build_detector("retinaface")).align(renders)
    found = [result for result in results if isinstance(result, AlignedFace)]
    assert len(found) >= 11
    assert sum(count_rejections(results).values()) == 12 - len(found)
    # On average the aligned landmarks lie on the template; single faces differ in build and pose.
    mapped = [(similarity_transform(f.landmarks) @ np.c_[f.landmarks, np.ones(5)].T).T for f in found]
    assert np.abs(np.mean(mapped, axis=0) - TEMPLATES["arcface"]).max() < 6


def test_batch_equals_single_in_any_order(portrait):
    pictures = [portrait, portrait[:, ::-1], portrait[:401, :511], np.zeros((50, 60, 3), np.uint8)]
    aligner = Aligner(build_detector("retinaface"))
    single = [aligner.align([picture])[0] for picture in pictures]
    for first, second in zip(single, reversed(aligner.align(pictures[::-1]))):
        assert type(first) is type(second)
        if isinstance(first, AlignedFace):
            np.testing.assert_array_equal(first.image, second.image)
            np.testing.assert_array_equal(first.landmarks, second.landmarks)
            assert first.score == second.score


def test_every_rejection_has_its_reason():
    good = faces((50, 20, 110, 80, 0.99))
    collapsed = Detections(good.boxes, good.scores, np.full((1, 5, 2), 60, np.float32))
    nan = Detections(good.boxes, good.scores, np.full((1, 5, 2), np.nan, np.float32))
    doubtful, small = faces((50, 20, 110, 80, 0.7)), faces((50, 20, 69, 80, 0.99))
    found = [Detections.empty(), doubtful, small, collapsed, good, nan]
    results = Aligner(Prepared(*found), min_score=0.9, min_face_pixels=20).align(blank(6))
    reasons = [result.reason.value if isinstance(result, Rejection) else None for result in results]
    assert reasons == ["no_face", "low_score", "too_small", "degenerate_landmarks", None, "degenerate_landmarks"]
    assert count_rejections(results) == {"no_face": 1, "low_score": 1, "too_small": 1, "degenerate_landmarks": 2}
    assert "0.700" in results[1].detail
    assert "19.0" in results[2].detail


def test_doubtful_faces_do_not_hide_good_ones():
    found = faces((0, 0, 100, 100, 0.6), (120, 30, 160, 70, 0.95))
    [face] = Aligner(Prepared(found), min_score=0.9).align(blank(1))
    np.testing.assert_array_equal(face.landmarks, found.landmarks[1])
    np.testing.assert_array_equal(face.box, found.boxes[1])
    assert face.score == pytest.approx(0.95)
    assert face.faces == 1


def test_template_and_size_reach_the_crop(portrait):
    aligner = Aligner(build_detector("retinaface"), template="arcface-padded", size=224)
    stack = np.frombuffer(portrait.tobytes(), np.uint8).reshape(1, *portrait.shape)  # read-only, as from a message
    [face] = aligner.align(stack)
    np.testing.assert_array_equal(face.image, align_face(portrait, face.landmarks, "arcface-padded", 224))
    assert face.image.shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("rule", "expected"), [("largest", 0), ("most_central", 1), ("largest_central", 2), ("highest_score", 3)]
)
def test_selection_rules(rule, expected):
    # Image 200 wide, 100 high, middle (100, 50).
    found = faces((0, 0, 80, 80, 0.97), (95, 45, 105, 55, 0.98), (70, 20, 140, 90, 0.9), (0, 0, 9, 9, 0.99))
    assert select_face(found, (100, 200, 3), rule) == expected
    order = np.array([2, 0, 3, 1])
    assert order[select_face(found.select(order), (100, 200), rule)] == expected


def reference_selection(boxes, scores, width, height, rule):
    """The definitions, face by face in plain Python."""
    best = None
    for index, ((left, top, right, bottom), score) in enumerate(zip(boxes.tolist(), scores.tolist(), strict=True)):
        area = (right - left) * (bottom - top)
        distance = ((left + right) / 2 - width / 2) ** 2 + ((top + bottom) / 2 - height / 2) ** 2
        merit = {
            "largest": area,
            "most_central": -distance,
            "largest_central": area - 2 * distance,
            "highest_score": score,
        }[rule]
        if best is None or (merit, score) > best[:2]:
            best = merit, score, index
    return best[2]


@pytest.mark.parametrize("rule", ["largest", "most_central", "largest_central", "highest_score"])
def test_selection_equals_its_definition(rule):
    random = np.random.default_rng(3)
    for _ in range(40):
        corners = random.integers(0, 90, (6, 2)).astype(np.float64)
        found = faces(*np.c_[corners, corners + random.integers(5, 60, (6, 1)), random.random(6)])
        expected = reference_selection(found.boxes, found.scores, 160, 120, rule)
        assert select_face(found, (120, 160, 3), rule) == expected


def test_highest_score_at_least_09_is_kface_s_first_above_09():
    random = np.random.default_rng(5)
    for _ in range(40):
        found = faces(*np.c_[np.tile([10, 10, 60, 60], (4, 1)) + np.arange(4)[:, None], random.uniform(0.5, 1, 4)])
        [aligned] = Aligner(Prepared(found), min_score=0.9, selection="highest_score").align(blank(1))
        # UNPG's alignment of K-FACE: detections by descending score, the first above the threshold.
        ranking = sorted(range(4), key=lambda face: -found.scores[face])
        first = next((face for face in ranking if found.scores[face] > 0.9), None)
        if first is None:
            assert aligned.reason == "low_score"
        else:
            np.testing.assert_array_equal(aligned.landmarks, found.landmarks[first])


def test_selection_of_none_and_of_equals():
    assert select_face(Detections.empty(), (10, 10)) is None
    equal = faces((10, 10, 30, 30, 0.91), (10, 10, 30, 30, 0.97))
    assert select_face(equal, (100, 100), "largest") == 1
    with pytest.raises(ValueError, match="largest_central"):
        select_face(equal, (100, 100), "best")


def test_mistakes_are_named():
    detector = Prepared()
    with pytest.raises(ValueError, match="min_score is 90"):
        Aligner(detector, min_score=90)
    with pytest.raises(ValueError, match="arcface-96"):
        Aligner(detector, template="arc")
    with pytest.raises(ValueError, match="selection is 'first'"):
        Aligner(detector, selection="first")
    with pytest.raises(ValueError, match="size is 2"):
        Aligner(detector, size=2)
    with pytest.raises(ValueError, match=r"images\[0\]"):
        Aligner(build_detector("retinaface")).align([np.zeros((5, 5))])
