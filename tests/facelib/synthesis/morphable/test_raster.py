import numpy as np

from facelib.synthesis.morphable.raster import depth_buffer, rasterise


def _plane(size: int, depth: float, rows: int = 20, columns: int = 30) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(4, size - 4, rows), np.linspace(4, size - 4, columns), indexing="ij")
    return np.stack([x, y, np.full_like(x, depth)]).astype(np.float32)


def test_a_plane_is_covered_and_its_coordinates_are_exact() -> None:
    size = 40
    seen = rasterise(_plane(size, 5.0), size, 4, ((slice(0, 20), slice(0, 30)),))
    assert seen.mask[5:35, 5:35].all()
    assert not seen.mask[:3].any()
    center = np.arange(5, 35) + 0.5
    np.testing.assert_allclose(seen.u[20, 5:35], (center - 4) / 32 * 29, atol=0.01)
    np.testing.assert_allclose(seen.v[5:35, 20], (center - 4) / 32 * 19, atol=0.01)
    np.testing.assert_allclose(seen.depth[10:30, 10:30], 5.0)


def test_the_nearer_patch_wins_and_the_far_side_is_hidden() -> None:
    size = 40
    near, far = _plane(size, 3.0), _plane(size, 7.0)
    grid = np.concatenate([far, near], axis=1)
    patches = ((slice(0, 20), slice(0, 30)), (slice(20, 40), slice(0, 30)))
    seen = rasterise(grid, size, 4, patches)
    assert (seen.v[8:32, 8:32] >= 20).all()
    mirrored = far[:, :, ::-1]
    assert not rasterise(mirrored, size, 4, patches[:1]).mask.any()
    assert rasterise(mirrored, size, 4, patches[:1], insides=True).mask[8:32, 8:32].all()


def test_depth_buffer_keeps_the_nearest() -> None:
    x, y = np.array([1.5, 1.2, -3.0]), np.array([2.5, 2.9, 1.0])
    buffer = depth_buffer(x, y, np.array([4.0, 2.0, 1.0]), 4)
    assert buffer[2, 1] == 2.0
    assert (buffer < 100).sum() == 1
