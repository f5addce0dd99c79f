import subprocess
import sys

import numpy as np
import pytest
import torch
from support.commands import CEILING_S

from facelib.alignment import AlignedFace, Aligner, build_detector
from facelib.synthesis import FaceGenerator, build_generator, factor_slices
from facelib.synthesis.mobilestylegan.generator import MobileStyleGANGenerator, cpu_threads
from facelib.synthesis.mobilestylegan.styles import FACTORS
from facelib.synthesis.mobilestylegan.weights import INSTALL

IDENTITIES = np.array([3, 3, 3, 8, 8])
INDICES = np.array([0, 1, 2, 0, 5])


@pytest.fixture(scope="module")
def generator(folder: str) -> MobileStyleGANGenerator:
    return build_generator("mobilestylegan")  # type: ignore[return-value]


def draw(generator: FaceGenerator, identities, indices, seed: int = 0) -> np.ndarray:
    numbers, places = np.asarray(identities), np.asarray(indices)
    return generator.render(
        generator.identity_codes(seed, numbers), generator.image_factors(seed, numbers, places)
    )  # fmt: skip


@pytest.fixture(scope="module")
def images(generator: MobileStyleGANGenerator) -> np.ndarray:
    return draw(generator, IDENTITIES, INDICES)


def test_it_is_a_generator_that_states_its_license(generator: MobileStyleGANGenerator) -> None:
    assert isinstance(generator, FaceGenerator)
    assert generator.image_size == 128
    assert "non-commercial" in generator.license
    assert generator.weights_hash is not None
    assert generator.factors == FACTORS
    assert {"expression", "illumination", "rotation"} <= FACTORS.keys()


def test_images_show_faces_of_two_people(images: np.ndarray) -> None:
    assert images.shape == (5, 128, 128, 3)
    results = Aligner(build_detector("retinaface"), min_score=0.8).align(list(images))
    assert all(isinstance(result, AlignedFace) for result in results)
    # The landmarks of an aligned 128 pixel face leave an eye distance of a 112 crop.
    assert min(np.linalg.norm(r.landmarks[1] - r.landmarks[0]) for r in results if isinstance(r, AlignedFace)) > 20


def test_bytes_depend_on_seed_identity_and_image_alone(generator: MobileStyleGANGenerator, images: np.ndarray) -> None:
    alone = np.concatenate([draw(generator, [i], [j]) for i, j in zip(IDENTITIES, INDICES)])
    np.testing.assert_array_equal(alone, images)
    np.testing.assert_array_equal(draw(generator, IDENTITIES[::-1], INDICES[::-1])[::-1], images)
    assert (draw(generator, [3], [0], seed=1) != images[0]).mean() > 0.5


def test_bytes_do_not_depend_on_the_processs_threads(generator: MobileStyleGANGenerator, images: np.ndarray) -> None:
    before = torch.get_num_threads()
    with cpu_threads(2):
        np.testing.assert_array_equal(draw(generator, IDENTITIES[:1], INDICES[:1]), images[:1])
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(images: np.ndarray, tmp_path) -> None:
    code = (
        "import numpy as np\n"
        "from facelib.synthesis import build_generator\n"
        "g = build_generator('mobilestylegan')\n"
        "i, j = np.array([8]), np.array([5])\n"
        f"np.save(r'{tmp_path / 'images.npy'}', g.render(g.identity_codes(0, i), g.image_factors(0, i, j)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=CEILING_S)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), images[4:])


def test_one_factor_varies_alone(folder: str) -> None:
    still = build_generator("mobilestylegan", vary=[])
    factors = still.image_factors(0, IDENTITIES, INDICES)
    assert not factors.any()
    posed = build_generator("mobilestylegan", vary=["rotation"]).image_factors(0, IDENTITIES, INDICES)
    places = factor_slices(FACTORS)
    assert posed[:, places["rotation"]].all()
    posed[:, places["rotation"]] = 0
    assert not posed.any()
    same = draw(still, IDENTITIES, INDICES)
    np.testing.assert_array_equal(same[0], same[2])
    assert (same[0] != same[3]).mean() > 0.5


def test_widths_of_zero_change_nothing(folder: str) -> None:
    from facelib.synthesis.mobilestylegan.styles import WIDTHS

    still = build_generator("mobilestylegan", widths=dict.fromkeys(WIDTHS, 0.0))
    same = draw(still, [3, 3], [0, 1])
    np.testing.assert_array_equal(same[0], same[1])


def test_sizes_and_precisions_show_the_same_face(images: np.ndarray, folder: str) -> None:
    rough = draw(build_generator("mobilestylegan", precision="bfloat16"), IDENTITIES[:2], INDICES[:2])
    assert np.abs(rough.astype(int) - images[:2]).mean() < 3
    large = draw(build_generator("mobilestylegan", image_size=256), IDENTITIES[:1], INDICES[:1])
    assert large.shape == (1, 256, 256, 3)
    whole = draw(build_generator("mobilestylegan", image_size=1024), IDENTITIES[:1], INDICES[:1])
    assert whole.shape == (1, 1024, 1024, 3)
    reduced = [
        image[0].reshape(64, n // 64, 64, n // 64, 3).mean((1, 3))
        for image, n in ((whole, 1024), (large, 256), (images, 128))
    ]
    assert np.abs(reduced[1] - reduced[0]).mean() < 12
    assert np.abs(reduced[2] - reduced[0]).mean() < 12


def test_nothing_asked_gives_nothing(generator: MobileStyleGANGenerator) -> None:
    assert draw(generator, np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (0, 128, 128, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 112}, "image_size is 112: choose one of 128, 256, 1024"),
        ({"truncation": 1.5}, r"truncation is 1\.5"),
        ({"vary": ["pose"]}, r"unknown factors \['pose'\]; there are expression"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"widths": {"age": 1.0}}, "widths has no 'age'"),
    ],
)
def test_settings_are_checked_before_the_weights_are_read(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_generator("mobilestylegan", folder="/nowhere", **settings)


def test_missing_weights_say_how_to_get_them() -> None:
    with pytest.raises(FileNotFoundError, match=INSTALL):
        build_generator("mobilestylegan", folder="/nowhere")


def test_wrong_shapes_are_refused(generator: MobileStyleGANGenerator) -> None:
    with pytest.raises(ValueError, match=r"must be \[N, 512\]"):
        generator.render(np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32))
