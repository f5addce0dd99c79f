"""IJB-B/C 1:1: alignment, pooling, published numbers."""

from pathlib import Path

import numpy as np
import pytest
from support.datasets import pattern
from support.releases import write_ijb

from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set
from facelib.evaluation.protocols.ijb import IJBVerification

GOLDEN = Path(__file__).parents[3] / "golden" / "evaluation.npz"
FEW = EvaluationOptions(fars=(0.1,), bootstrap=20)


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray pictures."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


def test_ijb_verification_aligns_by_the_landmarks(tmp_path):
    write_ijb(tmp_path / "ijb")
    opened = open_set(f"ijb:{tmp_path}/ijb")
    faces = opened.faces.decode()
    assert faces.shape == (36, 112, 112, 3)
    # The picture of the first image, without its frame and shrunk to a crop.
    import cv2

    expected = cv2.resize(pattern(0, 0, 168), (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(faces[0].astype(int) - expected)[4:-4, 4:-4].mean() < 6
    measured = opened.measure(pixels(opened.faces), FEW)
    assert measured.report.auc > 0.9
    assert measured.report.genuine == 9
    assert measured.report.identities == 9
    assert np.array_equal(measured.identities[:, 0] == measured.identities[:, 1], measured.issame)
    assert opened.flip is None
    people = opened.identities
    assert (people == np.repeat(np.arange(9), 4)).all()
    first, second = opened.pair_images(int(np.flatnonzero(opened.metadata.labels)[1]))
    assert people[first] == people[second]
    assert first != second


def test_ijb_equals_the_published_numbers():
    """The golden features through the protocol's own pooling and scoring."""
    golden = np.load(GOLDEN)

    class Metadata:
        templates, medias, scores = golden["ijb/templates"], golden["ijb/medias"], None
        first, second, labels = golden["ijb/p1"], golden["ijb/p2"], np.arange(len(golden["ijb/p1"])) % 3 == 0

    opened = IJBVerification.__new__(IJBVerification)
    opened.metadata, opened.weighted, opened.unit = Metadata, False, False
    features, ids = opened.pool(golden["ijb/features"])
    np.testing.assert_allclose(features, golden["ijb/template_features"], atol=1e-6)
    np.testing.assert_array_equal(ids, golden["ijb/unique_templates"])
    np.testing.assert_allclose(
        opened.measure(golden["ijb/features"], FEW).similarities, golden["ijb/scores"], atol=1e-6
    )


def test_ijb_weights_and_unit_length(tmp_path):
    write_ijb(tmp_path / "ijb")
    plain, weighted, unit = (open_set(f"ijb({o}):{tmp_path}/ijb") for o in ("flip=false", "weighted=true", "unit=true"))
    assert plain.flip == "none"
    embeddings = np.random.default_rng(0).normal(size=(36, 5)).astype(np.float32)
    scaled = embeddings * weighted.metadata.scores[:, None]
    np.testing.assert_allclose(weighted.pool(embeddings)[0], plain.pool(scaled)[0], atol=1e-6)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.pool(embeddings)[0], plain.pool(embeddings / lengths)[0], atol=1e-6)
    (tmp_path / "ijb" / "meta" / "ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(ValueError, match=r"weighted=true needs the detector scores"):
        open_set(f"ijb(weighted=true):{tmp_path}/ijb")


def transcribed_templates(plain, flipped, scores, templates, medias, norm, detector, flip):
    """Template features in float64, as insightface's evaluation defines its modes N, D and F."""
    features = {0: plain, 1: np.concatenate([plain, flipped], axis=1), 2: plain + flipped}[flip]
    if not norm:
        features = features / np.sqrt(np.sum(features**2, -1, keepdims=True))
    if detector:
        features = features * scores[:, None]
    rows = []
    for template in np.unique(templates):
        own = templates == template
        media = [np.mean(features[own & (medias == medium)], axis=0) for medium in np.unique(medias[own])]
        rows.append(np.sum(media, axis=0))
    return np.array([row / np.sqrt(np.sum(row**2)) for row in rows])


@pytest.mark.parametrize("mode", [f"N{n}D{d}F{f}" for n in (0, 1) for d in (0, 1) for f in (0, 1, 2)])
def test_modes_of_insightface(tmp_path, mode):
    write_ijb(tmp_path / "ijb", people=3, images=3)
    norm, detector, flip = (int(digit) for digit in mode[1::2])
    rule = ("none", "concat", "sum")[flip]
    options = f"unit={'false' if norm else 'true'},weighted={'true' if detector else 'false'},flip={rule}"
    opened = open_set(f"ijb({options}):{tmp_path}/ijb")
    assert opened.rules(FEW)["mode"] == mode
    generator = np.random.default_rng(0)
    plain, flipped = generator.normal(size=(2, len(opened.faces), 5))
    embeddings = {"none": plain, "concat": np.hstack([plain, flipped]), "sum": plain + flipped}[rule]
    data = opened.metadata
    expected = transcribed_templates(
        plain, flipped, data.scores.astype(np.float64), data.templates, data.medias, norm, detector, flip
    )
    features, ids = opened.pool(embeddings)
    np.testing.assert_allclose(features, expected, atol=1e-7)
    place = {template: row for row, template in enumerate(ids)}
    pairs = [(place[a], place[b]) for a, b in zip(data.first, data.second, strict=True)]
    measured = opened.measure(embeddings, FEW)
    np.testing.assert_allclose(measured.similarities, [expected[a] @ expected[b] for a, b in pairs], atol=1e-7)


def test_ijb_images_where_a_download_puts_them(tmp_path):
    """`loose_crop`; a named folder; what `meta/img.list` says; the root."""
    root = tmp_path / "ijb"
    write_ijb(root)
    expected = open_set(f"ijb:{root}").faces.decode()
    (root / "loose_crop").rename(root / "affine")
    named = open_set(f"ijb(images=affine):{root}")
    np.testing.assert_array_equal(named.faces.decode(), expected)
    np.testing.assert_array_equal(open_set(f"ijb(images={root}/affine):{root}").faces.decode(), expected)
    with pytest.raises(FileNotFoundError, match=r"crops: no such folder of IJB images, as images=crops says"):
        open_set(f"ijb(images=crops):{root}")
    names = [path.name for path in sorted((root / "affine").iterdir())]
    listing = root / "meta" / "img.list"
    listing.write_text("".join(f"affine/{name}\n" for name in names[::-1]))
    np.testing.assert_array_equal(open_set(f"ijb:{root}").faces.decode(), expected)
    listing.write_text("".join(f"affine/{name}\n" for name in names[1:]))
    with pytest.raises(ValueError, match=rf"img\.list: does not list image {names[0]}"):
        open_set(f"ijb:{root}")
    listing.unlink()
    for path in (root / "affine").iterdir():
        path.rename(root / path.name)
    np.testing.assert_array_equal(open_set(f"ijb:{root}").faces.decode(), expected)
