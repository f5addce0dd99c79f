"""TensorFlow's checkpoints, read without TensorFlow."""

import contextlib
import shutil

import numpy as np
import pytest

from facelib.synthesis.discofacegan.tf_checkpoint import Checkpoint

NAME = "rot/stage1/decoder/fc0/kernel"


@pytest.fixture
def prefix(golden, tmp_path):
    """A copy of the golden checkpoint of rotation's decoder, written by TensorFlow 1.12."""
    return shutil.copytree(golden / "vae_tiny" / "rot", tmp_path / "rot") / "stage1_epoch_395.ckpt"


def test_smallest_example(prefix):
    checkpoint = Checkpoint(prefix)
    kernel = checkpoint.read(NAME)
    assert kernel.dtype == np.float32
    assert kernel.shape == checkpoint.variables[NAME].shape
    assert sorted(name.rsplit("/", 2)[1] for name in checkpoint.variables if name.endswith("decoder/fc1/bias")) == [
        "fc1"
    ]
    with pytest.raises(KeyError):
        checkpoint.read("other")


def test_every_changed_byte_of_the_index_is_noticed(prefix):
    """Checksums cover the blocks; the footer's positions lead to blocks that do not fit their checksums."""
    index = prefix.with_name(prefix.name + ".index")
    content = index.read_bytes()
    expected = Checkpoint(prefix).variables
    unnoticed = 0
    for position in range(len(content)):
        index.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
        with contextlib.suppress(ValueError):
            unnoticed += Checkpoint(prefix).variables != expected
    assert unnoticed == 0


@pytest.mark.parametrize("size", [0, 10, 47, 100, -1])
def test_truncated_index(prefix, size):
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(index.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"index"):
        Checkpoint(prefix)


def test_changed_values_are_noticed(prefix):
    data = prefix.with_name(prefix.name + ".data-00000-of-00001")
    variable = Checkpoint(prefix).variables[NAME]
    content = bytearray(data.read_bytes())
    content[variable.offset] ^= 1
    data.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged or truncated"):
        Checkpoint(prefix).read(NAME)
