import numpy as np
import pytest

from facelib.synthesis import FaceGenerator, available_generators, build_generator, register_generator


def test_build_and_render_smallest_example() -> None:
    generator = build_generator("morphable", image_size=64)
    identities, indices = np.array([3, 3]), np.array([0, 1])
    codes = generator.identity_codes(0, identities)
    factors = generator.image_factors(0, identities, indices)
    images = generator.render(codes, factors)
    assert images.shape == (2, 64, 64, 3)
    assert images.dtype == np.uint8
    assert isinstance(generator, FaceGenerator)
    assert codes.shape[1] == generator.identity_size
    assert factors.shape[1] == sum(generator.factors.values())


def test_unknown_name_lists_the_generators() -> None:
    with pytest.raises(ValueError, match=r"unknown generator 'morfable'.*morphable"):
        build_generator("morfable")


def test_unknown_setting_lists_the_settings() -> None:
    with pytest.raises(ValueError, match=r"no setting 'imagesize'.*image_size"):
        build_generator("morphable", imagesize=64)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("image_size", 63), ("image_size", 513), ("max_yaw_degrees", -1), ("device", "tpu"), ("variation", 9)],
)
def test_bad_values_name_the_setting(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{setting} is .*{value}"):
        build_generator("morphable", **{setting: value})


def test_a_stranger_registers_a_generator() -> None:
    @register_generator("test_stranger")
    class Stranger:
        def __init__(self, folder: str) -> None:
            self.folder = folder

    assert "test_stranger" in available_generators()
    assert build_generator("test_stranger", folder="x").folder == "x"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="needs the setting 'folder'"):
        build_generator("test_stranger")

    class Other:
        pass

    with pytest.raises(ValueError, match="'test_stranger' is taken"):
        register_generator("test_stranger")(Other)
