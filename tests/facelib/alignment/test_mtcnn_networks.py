"""Networks and image operations of MTCNN against TensorFlow's, and damaged weights."""

import os

import numpy as np
import pytest
import torch

from facelib.alignment.mtcnn_networks import (
    crop_and_resize,
    load_networks,
    read_weights,
    resize_area,
    weights_folder,
)


@pytest.fixture(scope="module")
def networks():
    return dict(zip(("pnet", "rnet", "onet"), load_networks(torch.device("cpu"))))


@pytest.fixture(scope="module")
def pixels(mtcnn_golden):
    images = torch.from_numpy(mtcnn_golden["images"]).permute(0, 3, 1, 2)
    return (images.float() - 127.5) / 128


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_outputs_equal_tensorflows(networks, mtcnn_golden, name):
    outputs = networks[name](torch.from_numpy(mtcnn_golden[f"{name}_input"]).permute(0, 3, 1, 2))
    assert f"{name}_output{len(outputs)}" not in mtcnn_golden
    for number, output in enumerate(outputs):
        expected = mtcnn_golden[f"{name}_output{number}"]
        if number == len(outputs) - 1:
            expected = expected[..., 1]
        elif output.ndim == 4:
            output = output.permute(0, 2, 3, 1)
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("number", "size"), [(0, (150, 128)), (1, (41, 35)), (2, (13, 12))])
def test_area_resize_equals_tensorflows(pixels, mtcnn_golden, number, size):
    level = resize_area(pixels, *size)[:, :, ::3, ::3].permute(0, 2, 3, 1)
    np.testing.assert_allclose(level.numpy(), mtcnn_golden[f"level{number}"], atol=2e-5)


def test_area_resize_enlarges_too():
    """Each target pixel is the mean of the area that it covers: here parts of one or two pixels."""
    row = torch.tensor([[[[0.0, 3.0]]]])
    np.testing.assert_allclose(resize_area(row, 1, 3).numpy().ravel(), [0, 1.5, 3])


@pytest.mark.parametrize(("name", "side"), [("rnet", 24), ("onet", 48)])
def test_patches_equal_tensorflows(pixels, mtcnn_golden, name, side):
    """Boxes that leave the image on every side are among them."""
    patches = crop_and_resize(pixels, mtcnn_golden["boxes"], side).permute(0, 2, 3, 1)
    np.testing.assert_allclose(patches.numpy(), mtcnn_golden[f"{name}_input"], atol=1e-5)


def test_a_patch_does_not_depend_on_the_others(networks):
    patches = torch.randn(70, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    together = networks["onet"].run_patches(patches)
    for row in (0, 31, 32, 69):
        for output, alone in zip(together, networks["onet"].run_patches(patches[row : row + 1])):
            np.testing.assert_array_equal(output[row : row + 1], alone)


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_damaged_weights_name_the_file(tmp_path, damage):
    import lz4.frame

    content = lz4.frame.decompress((weights_folder() / "pnet.lz4").read_bytes())
    content = {"cut": content[:3000], "text": b"text", "other": b"\x80\x04]\x94K\x01a."}[damage]
    (tmp_path / "pnet.lz4").write_bytes(lz4.frame.compress(content))
    with pytest.raises(ValueError, match=r"pnet\.lz4: not the weights of MTCNN"):
        read_weights(tmp_path / "pnet.lz4")


def test_weights_that_would_run_code_are_refused(tmp_path):
    import pickle

    import lz4.frame

    class Evil:
        def __reduce__(self):
            return os.getcwd, ()

    (tmp_path / "pnet.lz4").write_bytes(lz4.frame.compress(pickle.dumps([Evil()])))
    with pytest.raises(ValueError, match=r"asks for posix\.getcwd"):
        read_weights(tmp_path / "pnet.lz4")
