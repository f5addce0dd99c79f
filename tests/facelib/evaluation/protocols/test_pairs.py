"""Verification pairs of a .bin file."""

import numpy as np

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
