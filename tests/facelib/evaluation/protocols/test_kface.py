"""K-FACE Q1 to Q4."""

from dataclasses import replace

import numpy as np
import pytest
from support.datasets import pattern

from facelib.data import encode_image
from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set

FEW = EvaluationOptions(fars=(0.1,), bootstrap=20)


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray pictures."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


@pytest.fixture
def kface(tmp_path):
    """Crops of three people in four poses, and the list Q2."""
    for person in range(3):
        place = tmp_path / f"1908{person}" / "S001" / "L1" / "E01"
        place.mkdir(parents=True)
        for pose in range(4):
            (place / f"C{pose + 1}.jpg").write_bytes(encode_image(pattern(person, pose)))
    names = [f"1908{p}/S001/L1/E01/C{c}.jpg" for p in range(3) for c in (1, 2, 3, 4)]
    lines = [f"{a} {b} {int(a[:5] == b[:5])}" for i, a in enumerate(names) for b in names[i + 1 :]]
    (tmp_path / "kface.Q2.txt").write_text("\n".join(lines))
    return tmp_path


def test_kface_pairs_of_crops(kface):
    opened = open_set(f"q2=kface-q2:{kface}")
    assert opened.image_spec.template == "arcface-padded"
    measured = opened.measure(pixels(opened.faces), FEW)
    assert (measured.report.genuine, measured.report.impostors) == (18, 48)
    assert measured.report.auc > 0.7
    assert measured.report.accuracy is None
    best = opened.measure(pixels(opened.faces), replace(FEW, accuracy_rule="best_threshold")).report
    scores, same = measured.similarities, measured.issame
    assert best.accuracy == pytest.approx(max(np.mean((scores >= t) == same) for t in [*scores, 2.0]))
    assert best.intervals["accuracy"].low <= best.accuracy <= best.intervals["accuracy"].high
    assert (best.auc, best.tar_at_far) == (measured.report.auc, measured.report.tar_at_far)
    assert len(set(opened.identities.tolist())) == 3
    assert measured.report.identities == 3
    assert any("rest on 3 identities" in warning for warning in measured.report.warnings)
    with pytest.raises(FileNotFoundError, match=r"kface\.Q4\.txt"):
        open_set(f"kface-q4:{kface}")
    (kface / "19081/S001/L1/E01/C3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"19081/S001/L1/E01/C3\.jpg: no such picture"):
        open_set(f"kface-q2:{kface}").faces.fingerprint  # noqa: B018


def test_kface_originals_are_aligned_by_the_plain_picture_of_their_pose(kface, monkeypatch):
    """Pictures that are no crops: every light of a pose takes the landmarks found on S001/L1/E01."""
    from facelib.alignment import TEMPLATES, Detections
    from facelib.evaluation.protocols import kface as module

    seen = []

    class Finder:
        def detect(self, images):
            seen.extend(images)
            points = (TEMPLATES["arcface-padded"] * 1.5 + 10).astype(np.float32)
            box = np.array([[20, 20, 170, 170]], np.float32)
            return [Detections(box, np.ones(1, np.float32), points[None]) for _ in images]

    monkeypatch.setattr(module, "build_detector", lambda name: Finder())
    for path in kface.rglob("*.jpg"):
        dark = kface / path.relative_to(kface).as_posix().replace("/L1/", "/L30/")
        dark.parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((190, 190, 3), np.uint8)
        picture[10:178, 10:178] = pattern(int(path.parts[-5][-1]), int(path.stem[1:]) - 1, 168)
        path.write_bytes(encode_image(picture))
        dark.write_bytes(encode_image(picture // 2))
    lines = (kface / "kface.Q2.txt").read_text().replace("/L1/", "/L30/")
    (kface / "dark.txt").write_text(lines)
    opened = open_set(f"kface-q2(pair_list={kface}/dark.txt):{kface}")
    assert len(seen) == 12  # one picture of each person and pose, in full light
    assert np.mean(seen[0]) > 1.5 * np.mean(opened.faces.part(0, 1).decode()[0])
    assert opened.faces.decode().shape == (12, 112, 112, 3)
