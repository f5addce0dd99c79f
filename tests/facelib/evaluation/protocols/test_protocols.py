"""The built-in protocols on small releases in their published layouts."""

from pathlib import Path

import numpy as np
import pytest
from support.datasets import pattern, write_dataset
from support.releases import write_ijb

from facelib.data import DatasetError, ImageSpec, decode_image, encode_image
from facelib.evaluation import EvaluationOptions, kfold_accuracy, roc_auc
from facelib.evaluation.protocols import EncodedImages, ImageFiles, identities_of_pairs, open_set
from facelib.evaluation.protocols.ijb import IJBVerification
from facelib.sources import write_bin
from facelib.sources.pair_sets import load_pair_set

GOLDEN = Path(__file__).parents[3] / "golden" / "evaluation.npz"
FEW = EvaluationOptions(fars=(0.1,), bootstrap=20)


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray pictures."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


@pytest.fixture
def people_bin(tmp_path):
    """30 pairs; every genuine pair's first picture comes again in an impostor pair."""
    sides = [side for p in range(15) for side in ((p, 0), (p, 1), (p, 0), (p + 50, 0))]
    write_bin(tmp_path / "people.bin", [encode_image(pattern(*side)) for side in sides], [1, 0] * 15)
    return tmp_path / "people.bin"


def test_pairs_of_a_bin(people_bin):
    opened = open_set(f"lfw={people_bin}")
    assert len(opened.faces) == 45  # 60 pictures, 15 of them twice
    embeddings = pixels(opened.faces)
    measured = opened.measure(embeddings, FEW)
    plain = load_pair_set(str(people_bin))
    every = pixels(EncodedImages(plain.images))
    assert measured.report.auc == roc_auc(measured.similarities, plain.issame) > 0.7
    assert measured.report.accuracy == kfold_accuracy(every[0::2], every[1::2], plain.issame).accuracy
    first, second = opened.pair_images(4)
    np.testing.assert_array_equal(opened.faces.part(first, first + 1).decode()[0], decode_image(plain.images[8]))
    np.testing.assert_array_equal(opened.faces.part(second, second + 1).decode()[0], decode_image(plain.images[9]))
    people = opened.identities
    assert (people[opened.first] == people[opened.second])[opened.issame].all()
    assert np.sum(people < 0) == 15
    assert opened.image_spec == ImageSpec(template="arcface", size=112)


def test_identities_are_what_genuine_pairs_connect():
    first, second = np.array([0, 1, 3, 5]), np.array([1, 2, 4, 0])
    people = identities_of_pairs(first, second, np.array([True, True, True, False]), 7)
    assert people[0] == people[1] == people[2] != people[3] == people[4]
    assert people[5] == people[6] == -1


def test_groups_of_people(tmp_path, people_bin):
    folder = tmp_path / "rfw"
    folder.mkdir()
    for name in ("south", "north"):
        (folder / f"{name}.bin").write_bytes(people_bin.read_bytes())
    write_dataset(folder / "synthetic", identities=6, images=4, first=300)
    opened = open_set(f"groups(pairs=20):{folder}")
    assert list(opened.groups) == ["north", "south", "synthetic"]
    embeddings = pixels(opened.faces)
    measured = opened.measure(embeddings, FEW)
    alone = open_set(str(people_bin))
    expected = alone.measure(pixels(alone.faces), FEW).report
    for name in ("north", "south"):
        assert measured.report.groups[name].auc == expected.auc
        assert measured.report.groups[name].fold_accuracies == expected.fold_accuracies
    assert measured.report.accuracy_std > 0
    assert set(measured.curves) == set(opened.groups)
    # A pair of the second group is shown by that group's own faces.
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for pair in (0, 29, 30, 59, 60, len(measured.issame) - 1):
        first, second = opened.pair_images(pair)
        assert unit[first] @ unit[second] == pytest.approx(measured.similarities[pair], abs=1e-5)
    people = opened.identities
    assert people.max() + 1 == len(set(people[people >= 0].tolist())) or len(set(people.tolist())) > 20
    (folder / "south.bin").unlink()
    (folder / "north.bin").unlink()
    with pytest.raises(ValueError, match="holds synthetic; groups need two or more"):
        open_set(f"groups:{folder}")


def test_groups_of_other_templates_do_not_mix(tmp_path):
    for name, template in (("a", "arcface"), ("b", "arcface-96")):
        write_dataset(tmp_path / name, identities=4, images=4, template=template)
    with pytest.raises(DatasetError, match="group a and group b do not fit together"):
        open_set(f"groups:{tmp_path}")


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
    assert opened.flip is True
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
    assert plain.flip is False
    embeddings = np.random.default_rng(0).normal(size=(36, 5)).astype(np.float32)
    scaled = embeddings * weighted.metadata.scores[:, None]
    np.testing.assert_allclose(weighted.pool(embeddings)[0], plain.pool(scaled)[0], atol=1e-6)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.pool(embeddings)[0], plain.pool(embeddings / lengths)[0], atol=1e-6)
    (tmp_path / "ijb" / "meta" / "ijbc_name_5pts_score.txt").unlink()
    with pytest.raises(ValueError, match=r"weighted=true needs the detector scores"):
        open_set(f"ijb(weighted=true):{tmp_path}/ijb")


def test_ijb_identification(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    opened = open_set(f"ijb-1n:{tmp_path}/ijb")
    report = opened.measure(pixels(opened.faces), EvaluationOptions(ranks=(1, 2), fpirs=(0.4,), bootstrap=20)).report
    assert (report.gallery, report.mated, report.nonmated) == ([6], [6], [3])
    assert report.rank[1] > 0.6
    expected = np.repeat(np.arange(100, 109), 4)
    expected[[24, 25, 28, 29, 32, 33]] = -1  # the first templates of the last three people are in no list
    assert opened.identities.tolist() == expected.tolist()
    with (tmp_path / "ijb" / "meta" / "ijbc_1N_probe_mixed.csv").open("a") as file:
        file.write("999,5,x\n")
    with pytest.raises(ValueError, match=r"ijbc_1N_probe_mixed\.csv: template 999 has no image"):
        open_set(f"ijb-1n:{tmp_path}/ijb")
    (tmp_path / "ijb" / "meta" / "ijbc_1N_gallery_G1.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no ijbc_1N_gallery\*\.csv"):
        open_set(f"ijb-1n:{tmp_path}/ijb")


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
    assert len(set(opened.identities.tolist())) == 3
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
