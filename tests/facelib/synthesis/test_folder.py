"""Finished picture sets as a generator."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from facelib.synthesis import FaceGenerator, available_generators, build_generator


def picture(identity: int, index: int, size: int = 32) -> np.ndarray:
    """RGB, lossless in PNG, and told apart."""
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 0], image[..., 1], image[: size // 2, :, 2] = identity * 20, index * 30, 200
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Identities "a" with 3 pictures, "b" with 2, and things that are none."""
    for identity, (person, count) in enumerate({"a": 3, "b": 2}.items()):
        (tmp_path / "set" / person).mkdir(parents=True)
        for index in range(count):
            path = tmp_path / "set" / person / f"{index:03d}.png"
            cv2.imwrite(str(path), picture(identity, index)[..., ::-1])
    (tmp_path / "set" / "empty").mkdir()
    (tmp_path / "set" / "readme.txt").write_text("a picture set")
    (tmp_path / "set" / "a" / "notes.txt").write_text("no picture")
    return tmp_path / "set"


def test_smallest_example(folder):
    generator = build_generator("folder", folder=str(folder))
    identities, indices = np.array([0, 1, 0]), np.array([2, 1, 0])
    codes = generator.identity_codes(0, identities)
    images = generator.render(codes, generator.image_factors(0, identities, indices))
    np.testing.assert_array_equal(images, [picture(0, 2), picture(1, 1), picture(0, 0)])
    assert isinstance(generator, FaceGenerator)
    assert (generator.identities, generator.image_size, generator.factors) == (2, 32, {"image": 1})
    assert "folder" in available_generators()


def test_identities_and_pictures_end(folder):
    generator = build_generator("folder", folder=str(folder))
    with pytest.raises(ValueError, match="identities 0 to 1, 2 was asked for"):
        generator.identity_codes(0, np.array([2]))
    with pytest.raises(ValueError, match=r"b has 2 pictures, number 2 was asked for.*missing='blank'"):
        generator.image_factors(0, np.array([1]), np.array([2]))


def test_missing_pictures_may_be_blank(folder):
    generator = build_generator("folder", folder=str(folder), missing="blank")
    identities, indices = np.array([1, 1]), np.array([2, 0])
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, indices)
    images = generator.render(codes, factors)
    assert not images[0].any()
    np.testing.assert_array_equal(images[1], picture(1, 0))


def test_other_sizes_are_refused_or_resized(folder):
    cv2.imwrite(str(folder / "b" / "001.png"), np.full((20, 48, 3), 90, np.uint8))
    identities, indices = np.array([1]), np.array([1])
    generator = build_generator("folder", folder=str(folder))
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, indices)
    with pytest.raises(ValueError, match=r"001\.png has 48 x 20 pixels, the first picture 32 x 32: set image_size"):
        generator.render(codes, factors)
    resized = build_generator("folder", folder=str(folder), image_size=64).render(codes, factors)
    np.testing.assert_array_equal(resized, np.full((1, 64, 64, 3), 90))


def test_damaged_pictures_are_named(folder):
    (folder / "a" / "000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"000\.png: not a readable picture"):
        build_generator("folder", folder=str(folder))


def test_what_lies_beside_the_images_is_left_out_and_counted(folder, caplog):
    """macOS writes `._000.png` beside an image on a foreign disk (faceswap-playground 116, ml4a 49)."""
    expected = build_generator("folder", folder=str(folder))
    assert expected.left_out == {"not_a_picture_file": 2}
    (folder / "a" / "._000.png").write_bytes(b"\x00\x05\x16\x07")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "1.png").write_bytes(b"no picture")
    (folder / "stray.png").write_bytes(b"no picture")
    (folder / "a" / "loop").symlink_to("..")
    with open(os.path.join(os.fsencode(folder), b"a", b"\xe9.png"), "wb") as file:
        file.write(b"no picture")
    generator = build_generator("folder", folder=str(folder))
    assert (generator.identities, generator.weights_hash) == (2, expected.weights_hash)
    assert generator.left_out == {
        "hidden_file": 2, "link_within_folder": 1, "name_not_utf8": 1, "no_identity": 1, "not_a_picture_file": 2,
    }  # fmt: skip
    assert "name_not_utf8" in caplog.text


def test_hash_follows_the_files(folder):
    first = build_generator("folder", folder=str(folder)).weights_hash
    assert build_generator("folder", folder=str(folder)).weights_hash == first
    (folder / "b" / "001.png").unlink()
    assert build_generator("folder", folder=str(folder)).weights_hash != first


def test_wrong_folders_and_settings_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        build_generator("folder", folder=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no pictures; expected <identity>/<picture>"):
        build_generator("folder", folder=str(folder / "a"))
    with pytest.raises(ValueError, match="image_size is 8"):
        build_generator("folder", folder=str(folder), image_size=8)
    with pytest.raises(ValueError, match="missing is 'skip'"):
        build_generator("folder", folder=str(folder), missing="skip")
    assert build_generator("folder", folder=str(folder), license="research only").license == "research only"
