"""Evaluation sets by several models: order, cache, an actor that dies, a damaged image."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from support.datasets import pattern
from support.models import TINY

from facelib.config import EvaluateSettings
from facelib.data import Folder, ImageSpec, encode_image
from facelib.embedding import NonFiniteEmbeddingError, embed_images, load_face_model
from facelib.evaluation import PixelEmbedding
from facelib.evaluation.protocols import EncodedImages, EvaluationSet
from facelib.models import build_backbone, save_backbone
from ray_jobs.embedding import evaluation_sets
from ray_jobs.embedding.evaluation_sets import embed_sets, named_errors
from ray_jobs.embedding.models import EmbeddingModel

CFG = EvaluateSettings(batch_size=4, actors=1, cpus_per_actor=0.5)
TWO_ACTORS = CFG.model_copy(update={"actors": 2})


class Faces(EvaluationSet):
    """A set that is only embedded."""

    def __init__(self, name, faces, flip=None):
        self.name, self.faces, self.flip = name, faces, flip
        self.image_spec = ImageSpec(template="arcface", size=112)

    def measure(self, embeddings, measures):
        raise NotImplementedError


class DeadlyFaces(EncodedImages):
    """The first process that decodes a part exits."""

    def __init__(self, images, marker):
        super().__init__(images)
        self.marker = marker

    def part(self, begin, end):
        return DeadlyFaces(self.images[begin:end], self.marker)

    def decode(self):
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(1)
        return super().decode()


@pytest.fixture(scope="module")
def models(tmp_path_factory, ray_cluster):
    """Two checkpoints, and raw pixels."""
    # Workers cannot import a test file: its classes are pickled by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_backbone(folder / f"{seed}.pt", build_backbone("iresnet", **TINY), "iresnet", TINY, {})
    return [
        EmbeddingModel("1", f"{folder}/1.pt"),
        EmbeddingModel("2", f"{folder}/2.pt"),
        EmbeddingModel("pixels", pixels=PixelEmbedding()),
    ]


def encoded(count, first=0):
    return [encode_image(pattern(first + i, 0)) for i in range(count)]


def test_every_set_by_every_model_with_a_cache(models, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_sets, "PART_FACES", 8)  # the large set is three parts
    sets = [Faces("large", EncodedImages(encoded(19))), Faces("small", EncodedImages(encoded(3, 50)), flip=False)]
    cache = Folder(f"{tmp_path}/cache").create()
    work = [(model, s) for model in models for s in sets]
    embedded = {(model.name, s.name): embeddings for model, s, embeddings in embed_sets(work, TWO_ACTORS, cache)}
    assert set(embedded) == {(m.name, s.name) for m, s in work}
    for model, s in work:
        pixels, flip = s.faces.decode(), s.flip is None
        if model.pixels is None:
            expected = embed_images(load_face_model(model.path), pixels, flip)
        else:
            expected = model.pixels.embed(pixels, flip)
        np.testing.assert_allclose(embedded[model.name, s.name], expected, atol=1e-4 * np.abs(expected).max())
    assert len(cache.names()) == 3 * (3 + 1)
    cache.fs.delete_file(f"{cache.path}/{cache.names()[0]}")
    again = {(model.name, s.name): embeddings for model, s, embeddings in embed_sets(work, CFG, cache)}
    for key, embeddings in embedded.items():
        np.testing.assert_allclose(again[key], embeddings, atol=1e-5 * np.abs(embeddings).max())
    # Other weights under the same name give other embeddings.
    assert EmbeddingModel("1", models[1].path).fingerprint() == models[1].fingerprint() != models[0].fingerprint()
    assert EmbeddingModel("1", models[0].path, untrained=True).fingerprint() != models[0].fingerprint()


def test_an_actor_that_dies_is_replaced(models, tmp_path):
    faces = encoded(11)
    deadly = Faces("deadly", DeadlyFaces(faces, str(tmp_path / "died")))
    ((_, _, embeddings),) = embed_sets([(models[2], deadly)], CFG, None)
    assert (tmp_path / "died").exists()
    expected = models[2].pixels.embed(EncodedImages(faces).decode())
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_a_damaged_image_is_named(models):
    broken = Faces("x", EncodedImages([*encoded(2), b"nothing"], "album"))
    with pytest.raises(Exception, match="album: picture 2: image: 7 bytes that are not a decodable image"):
        list(embed_sets([(models[2], broken)], CFG, None))


def test_an_embedding_that_is_not_finite_stops_and_names_image_and_model():
    def broken(images, flip):
        raise NonFiniteEmbeddingError(1)

    faces = EncodedImages(encoded(6), "lfw").part(4, 6)
    with pytest.raises(ValueError, match=r"^lfw: picture 5, model ssl: its embedding is not finite"):
        named_errors(broken, faces.decode(), True, "ssl", faces.name_of)


def test_a_cached_part_that_is_not_finite_is_computed_again(models, tmp_path):
    cache = Folder(f"{tmp_path}/cache").create()
    work = [(models[2], Faces("few", EncodedImages(encoded(4))))]
    ((_, _, expected),) = embed_sets(work, CFG, cache)
    (name,) = cache.names()
    data = io.BytesIO()
    np.save(data, np.full_like(expected, np.nan))
    cache.write(name, data.getvalue())
    ((_, _, again),) = embed_sets(work, CFG, cache)
    np.testing.assert_array_equal(again, expected)
