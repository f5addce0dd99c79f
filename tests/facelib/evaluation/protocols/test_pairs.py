"""Verification pairs of a .bin file."""

import numpy as np
from support.datasets import write_dataset

from facelib.data import ImageSpec, decode_image
from facelib.evaluation import EvaluationOptions, kfold_accuracy, roc_auc
from facelib.evaluation.protocols import EncodedImages, open_set
from facelib.sources.pair_sets import load_pair_set

FEW = EvaluationOptions(fars=(0.1,), bootstrap=20)


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray pictures."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


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
    assert measured.report.resampling == "pairs only, identities unknown"
    assert any("15 genuine pairs, fewer than 300" in warning for warning in measured.report.warnings)


def test_pairs_of_a_dataset_know_their_identities(tmp_path):
    write_dataset(tmp_path / "heldout", identities=24, images=4)
    opened = open_set(f"{tmp_path}/heldout", {"pairs": 40})
    measured = opened.measure(pixels(opened.faces), FEW)
    assert measured.report.identities == 24
    assert measured.report.to_dict()["resampling"] == "over 24 identities"
    same = measured.identities[:, 0] == measured.identities[:, 1]
    assert np.array_equal(same, measured.issame)
    assert not any("intervals rest" in warning for warning in measured.report.warnings)


def test_pairs_of_a_bin_by_the_names_of_lfws_pair_file(people_bin):
    names = people_bin.with_name("pairs.txt")
    lines = [line for p in range(15) for line in (f"P{p} 1 2", f"P{p} 1 Q{p} 1")]
    names.write_text("\n".join(["15 1", *lines]))
    opened = open_set(f"lfw=pairs(names={names}):{people_bin}")
    measured = opened.measure(pixels(opened.faces), FEW)
    assert measured.report.identities == 30
    assert len(set(opened.identities.tolist())) == 30
