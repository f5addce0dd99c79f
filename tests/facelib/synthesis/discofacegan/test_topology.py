import json

import pytest

from facelib.synthesis.discofacegan.topology import Topology


def test_smallest_example(golden):
    """The published size has the original's variables, names, shapes and order."""
    expected = json.loads((golden / "full_r256_variables.json").read_text())
    topology = Topology.from_static_kwargs({"resolution": 256, "num_channels": 3, "label_size": 0, "latent_size": 286})
    assert topology.layers == 14
    assert list(topology.variables()) == list(expected)
    assert {name: list(shape) for name, shape in topology.variables().items()} == {
        name: entry["shape"] for name, entry in expected.items()
    }


def test_fused_from_128_pixels_on():
    assert [Topology(256).fused(log2) for log2 in range(3, 9)] == [False] * 4 + [True] * 2
    assert Topology(32, fused_scale=True).fused(3)
    assert not Topology(256, fused_scale=False).fused(8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "resolution is None"),
        ({"resolution": 2048}, "resolution is 2048"),
        ({"resolution": 256.0}, r"resolution is 256\.0"),
        ({"resolution": 256, "fmap_max": True}, "fmap_max is True"),
        ({"resolution": 256, "fused_scale": "never"}, "fused_scale is 'never'"),
        ({"resolution": 256, "fmap_base": 64}, "no feature maps at 256"),
        ({"resolution": 256, "dtype": "float16"}, "dtype is 'float16', only 'float32'"),
    ],
)
def test_settings_that_cannot_be_rebuilt_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Topology.from_static_kwargs(settings)
