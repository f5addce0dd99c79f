"""Box arithmetic against loops."""

import numpy as np
import pytest

from facelib.alignment.boxes import box_areas, overlaps, square, suppress_all, suppress_greedy


@pytest.fixture(scope="module")
def boxes():
    corners = np.random.default_rng(0).uniform(0, 40, (60, 2))
    return np.concatenate([corners, corners + np.random.default_rng(1).uniform(5, 30, (60, 2))], axis=1)


def slow_overlap(a, b, relative_to="union"):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    first, second = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return both / (min(first, second) if relative_to == "min" else first + second - both)


@pytest.mark.parametrize("relative_to", ["union", "min"])
def test_overlaps(boxes, relative_to):
    expected = [[slow_overlap(a, b, relative_to) for b in boxes] for a in boxes]
    np.testing.assert_allclose(overlaps(boxes[:, None], boxes[None], relative_to), expected)


def test_greedy_suppression(boxes):
    kept = []
    for index, box in enumerate(boxes):
        if all(slow_overlap(box, boxes[other]) <= 0.4 for other in kept):
            kept.append(index)
    assert suppress_greedy(boxes, 0.4).tolist() == kept
    assert 1 < len(kept) < len(boxes)


def test_a_suppressed_box_still_suppresses(boxes):
    kept = [
        index
        for index, box in enumerate(boxes)
        if all(slow_overlap(box, other, "min") <= 0.6 for other in boxes[:index])
    ]
    assert suppress_all(boxes, 0.6, "min").tolist() == kept
    assert len(suppress_all(boxes, 0.4)) < len(suppress_greedy(boxes, 0.4))
    assert suppress_all(boxes[:0], 0.5).tolist() == suppress_greedy(boxes[:0], 0.5).tolist() == []


def test_squares_keep_centers(boxes):
    squares = square(boxes)
    np.testing.assert_allclose(squares[:, :2] + squares[:, 2:], boxes[:, :2] + boxes[:, 2:])
    sides = squares[:, 2:] - squares[:, :2]
    np.testing.assert_allclose(sides, np.repeat((boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True), 2, axis=1))
    np.testing.assert_allclose(box_areas(squares), sides[:, 0] ** 2)
