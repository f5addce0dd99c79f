import copy
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from support.datasets import pattern

from facelib.data import decode_image, encode_image
from facelib.embedding import NonFiniteEmbeddingError, embed_images, load_face_model
from facelib.models import CheckpointError, build_backbone, save_backbone, take_symmetric_pixels

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def encoded():
    """Ten encoded faces."""
    return [encode_image(pattern(i, 0)) for i in range(10)]


@pytest.fixture(scope="module")
def images(encoded):
    """The same, decoded: uint8 [10, 112, 112, 3]."""
    return np.stack([decode_image(data) for data in encoded])


@pytest.fixture(scope="module")
def backbone(images):
    """A small network whose running statistics are those of the faces, in training mode."""
    torch.manual_seed(0)
    network = build_backbone("iresnet", embedding_size=16, layers=[1, 1, 1, 1], width=0.25, stem_stride=2)
    with torch.no_grad():
        for _ in range(20):
            network.train()(reference_input(images).float())
    return network


def reference_input(images):
    return torch.from_numpy((images.astype(np.float64) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()


def reference(backbone, images):
    """float64 embeddings without flip."""
    double = build_backbone("iresnet", embedding_size=16, layers=[1, 1, 1, 1], width=0.25, stem_stride=2).double()
    double.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        return double.eval()(reference_input(images)).numpy()


def test_faces_become_embeddings(backbone, images):
    embeddings = embed_images(backbone, images)
    assert embeddings.shape == (10, 16)
    assert embeddings.dtype == np.float32
    mirrored = images[:, :, ::-1]
    expected = reference(backbone, images) + reference(backbone, mirrored)
    np.testing.assert_allclose(embeddings, expected, atol=2e-4 * np.abs(expected).max())
    # Adding the mirror image makes a face and its mirror image the same person.
    np.testing.assert_allclose(embed_images(backbone, mirrored), embeddings, atol=1e-4 * np.abs(expected).max())


def test_without_flip_it_is_the_plain_network(backbone, images):
    expected = reference(backbone, images)
    found = embed_images(backbone, images, flip=False)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(found - embed_images(backbone, images[:, :, ::-1], flip=False)).max() > 0.01 * np.abs(expected).max()


def test_concatenation_compares_plain_with_plain_and_flipped_with_flipped(backbone, images):
    """UNPG: cosine of [f(x), f(flipped x)], neither half normalized by itself."""
    plain, flipped = reference(backbone, images), reference(backbone, images[:, :, ::-1])
    found = embed_images(backbone, images, flip="concat")
    assert found.shape == (10, 32)
    np.testing.assert_allclose(found, np.hstack([plain, flipped]), atol=2e-4 * np.abs(plain).max())
    assert embed_images(backbone, images[:0], flip="concat").shape == (0, 32)


def test_encoded_faces_and_arrays_give_the_same(backbone, encoded, images):
    assert np.array_equal(embed_images(backbone, encoded), embed_images(backbone, images))


def test_batch_size_does_not_matter_and_progress_counts_images(backbone, images):
    counts: list[int] = []
    small = embed_images(backbone, images, batch_size=4, progress=counts.append)
    assert counts == [4, 4, 2]
    np.testing.assert_allclose(small, embed_images(backbone, images), atol=1e-4 * np.abs(small).max())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_statistics_are_left_alone(backbone, images, training):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train(training)
    embed_images(backbone, images)
    assert backbone.training is training
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    with pytest.raises(ValueError, match="not a decodable image"):
        embed_images(backbone, [b"not a picture"])
    assert backbone.training is training


def test_bfloat16_is_close_to_float32(backbone, images):
    exact, half = embed_images(backbone, images), embed_images(backbone, images, precision="bfloat16")
    assert half.dtype == np.float32
    assert not np.array_equal(exact, half)
    cosines = (exact * half).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert cosines.min() > 0.99


def test_no_images_give_no_embeddings(backbone):
    for images in ([], np.zeros((0, 112, 112, 3), np.uint8)):
        assert embed_images(backbone, images).shape == (0, 16)


def test_a_published_unpg_network_gets_the_pixels_it_was_trained_with(backbone, images, tmp_path):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy((images / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = backbone.eval()(pixels).numpy()
    found = embed_images(take_symmetric_pixels(copy.deepcopy(backbone), "imagenet"), images, flip=False)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    # All weights of this published-format file are alike: it cannot show a difference, but it is recognized.
    (tmp_path / "unpg.pt").write_bytes(gzip.decompress((GOLDEN / "unpg_checkpoint_tiny.pt.gz").read_bytes()))
    network = load_face_model(tmp_path / "unpg.pt")
    assert network.normalization == "imagenet"
    assert embed_images(network, images).shape == (10, 8)


def test_our_own_checkpoints_are_loaded_as_they_are(backbone, images, tmp_path):
    settings = {"embedding_size": 16, "layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}
    save_backbone(tmp_path / "model.pt", backbone, "iresnet", settings, {"template": "arcface"})
    assert np.array_equal(embed_images(load_face_model(tmp_path / "model.pt"), images), embed_images(backbone, images))


def test_a_file_that_does_not_state_its_pixels_asks_for_them(backbone, images, tmp_path):
    """As UNPG's network saved as a state_dict: its last scale was trained."""
    settings = {"embedding_size": 16, "width": 0.25, "layers": [1, 1, 1, 1]}
    network = build_backbone("iresnet", **settings)
    network.features.weight.data.fill_(0.7)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: .*set model\.normalization"):
        load_face_model(tmp_path / "a.pth")
    found = embed_images(load_face_model(tmp_path / "a.pth", "imagenet"), images)
    assert np.array_equal(found, embed_images(take_symmetric_pixels(network, "imagenet"), images))


def test_an_embedding_that_is_not_finite_stops_and_names_the_image(backbone, images):
    class Overflowing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            embeddings = x.flatten(1)[:, :8] * self.scale
            embeddings[x[:, 0, 0, 0] > 0.99] = torch.inf
            return embeddings

    pixels = images.copy() // 2
    pixels[3] = 255
    with pytest.raises(NonFiniteEmbeddingError, match="image 3: its embedding is not finite") as error:
        embed_images(Overflowing(), pixels, batch_size=2)
    assert error.value.image == 3
