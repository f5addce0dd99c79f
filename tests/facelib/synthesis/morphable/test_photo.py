import numpy as np

from facelib.synthesis.morphable.photo import develop

NAMES = (
    "brightness", "contrast", "gamma", "saturation", "white_balance", "tint", "focus", "motion", "low_resolution",
    "grain", "jpeg",
)  # fmt: skip


def _developed(**changes: float) -> np.ndarray:
    y, x = np.mgrid[0:96, 0:96] / 96
    scene = np.stack([0.3 + 0.4 * x, 0.3 + 0.3 * y, 0.4 + 0.2 * np.sin(40 * x)], -1).astype(np.float32)
    z = dict.fromkeys(NAMES, 0.0) | changes
    return develop(scene, z, np.random.default_rng(0)).astype(np.float64)


def _sharpness(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image[..., 2], axis=1)).mean())


def test_each_setting_does_what_its_name_says() -> None:
    calm = _developed()
    assert calm.shape == (96, 96, 3)
    assert _developed(brightness=2).mean() > calm.mean() + 10
    assert _developed(contrast=2)[..., 0].std() > 1.2 * calm[..., 0].std()
    warm = _developed(white_balance=2)
    assert (warm[..., 0] - warm[..., 2]).mean() > (calm[..., 0] - calm[..., 2]).mean() + 10
    assert np.ptp(_developed(saturation=3, grain=-4, jpeg=-4), axis=-1).mean() < 4
    assert _sharpness(_developed(focus=2, grain=-4)) < _sharpness(_developed(focus=-2, grain=-4))
    assert _sharpness(_developed(low_resolution=2.5, grain=-4)) < _sharpness(_developed(grain=-4))


def test_developing_repeats() -> None:
    np.testing.assert_array_equal(_developed(motion=2, grain=2, jpeg=2), _developed(motion=2, grain=2, jpeg=2))
