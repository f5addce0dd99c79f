import pytest

from facelib.data import DatasetError, ImageSpec


def test_image_specs_that_differ_are_refused_naming_both_sides():
    ours, theirs = ImageSpec(template="arcface", size=112), ImageSpec(template="arcface-96", size=112)
    ours.require(ours, "a", "b")
    with pytest.raises(DatasetError, match=r"the model and set lfw do not fit.*'arcface' against 'arcface-96'"):
        ours.require(theirs, "the model", "set lfw")


def test_a_set_may_be_compared_whatever_its_template():
    ours, anything = ImageSpec(template="arcface-96", size=112), ImageSpec(template="any", size=112)
    ours.require(anything, "the model", "set lfw")
    anything.require(ours, "set lfw", "the model")
    with pytest.raises(DatasetError, match="size: 96 against 112"):
        ours.overlaid({"size": 96}).require(anything, "the model", "set lfw")


def test_a_checkpoint_names_fields_of_its_own():
    spec = ImageSpec(template="arcface", size=112)
    assert spec.overlaid(None) == spec
    assert spec.overlaid({"size": 96, "normalization": "[-1, 1]"}) == ImageSpec(template="arcface", size=96)
