import pytest

from facelib.models import BackboneCheckpoint, CheckpointError


def checkpoint(normalization):
    return BackboneCheckpoint("arcface_torch", "iresnet18", {}, {}, None, normalization)


def test_the_normalization_of_a_file_is_its_own_or_the_one_given():
    assert checkpoint("imagenet").require_normalization("a.pt") == "imagenet"
    assert checkpoint("imagenet").require_normalization("a.pt", "imagenet") == "imagenet"
    assert checkpoint(None).require_normalization("a.pt", "imagenet") == "imagenet"


def test_an_unknown_or_another_normalization_is_an_error_that_names_the_file_and_the_setting():
    with pytest.raises(CheckpointError, match=r"a\.pt: does not say how the pixels.*set model\.normalization"):
        checkpoint(None).require_normalization("a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: was trained with .* imagenet, but model\.normalization is symm"):
        checkpoint("imagenet").require_normalization("a.pt", "symmetric")
