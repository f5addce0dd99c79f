import numpy as np
import pytest

from facelib.alignment import AlignedFace
from facelib.synthesis.mobilestylegan.fit_directions import ATTRIBUTES, fit, measure_face

EYES_NOSE_MOUTH = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [70, 92]], np.float32)


def test_edits_move_their_attribute_alone(capsys) -> None:
    """Attributes that are linear in x, of very different units and with correlated filters."""
    random = np.random.default_rng(0)
    x = random.standard_normal((4000, 512)) * np.linspace(0.2, 2, 512)
    shared = random.standard_normal(512)
    true = {name: random.standard_normal(512) + 0.5 * shared for name in ATTRIBUTES}
    units = dict(zip(ATTRIBUTES, np.logspace(-2, 2, len(ATTRIBUTES))))
    values = {name: units[name] * (x @ true[name] + random.standard_normal(len(x))) + 3 for name in ATTRIBUTES}
    _, edits = fit(x, values)
    moved = np.array([[units[a] * (true[a] @ edit) for a in ATTRIBUTES] for edit in edits])
    spreads = np.array([values[name].std() for name in ATTRIBUTES])
    relative = moved * spreads[:, None] / spreads[None, :]
    # A little more than asked for: the ridge makes filters smaller, and edits are their inverse.
    assert (np.diag(relative) > 0.95).all()
    assert (np.diag(relative) < 1.3).all()
    np.testing.assert_allclose(relative - np.diag(np.diag(relative)), 0, atol=0.1)
    assert capsys.readouterr().out.count("held-out r 0.99") == len(ATTRIBUTES)


def face(image: np.ndarray) -> AlignedFace:
    return AlignedFace(image, 0.99, EYES_NOSE_MOUTH, np.array([0, 0, 112, 112], np.float32), 1)


def test_attributes_of_a_face() -> None:
    plain = np.full((112, 112, 3), 120, np.uint8)
    assert set(measure_face(face(plain))) == set(ATTRIBUTES)
    lit, talking = plain.copy(), plain.copy()
    lit[:56] = 200
    talking[90:98, 46:66] = 240
    assert measure_face(face(lit))["top_light"] > measure_face(face(plain))["top_light"] == pytest.approx(0)
    assert measure_face(face(talking))["mouth_open"] > measure_face(face(plain))["mouth_open"] == pytest.approx(0)
    assert measure_face(face(plain))["mouth_width"] == pytest.approx(28 / 36)
