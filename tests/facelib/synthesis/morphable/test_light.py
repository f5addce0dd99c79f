import numpy as np

from facelib.synthesis.morphable.light import cast_shadow, make_light, shade


def _normals(*directions: tuple[float, float, float]) -> np.ndarray:
    n = np.array(directions, np.float32)
    return (n / np.linalg.norm(n, axis=1, keepdims=True)).T[:, None, :]


def test_what_faces_the_key_light_is_brighter() -> None:
    light = make_light(np.array([2.0, 1.5] + [0.0] * 14, np.float32))
    toward, away = _normals(tuple(light.key), tuple(-light.key)).reshape(3, 2).T
    lit = shade(light, _normals(tuple(toward), tuple(away)), 1.0, None)
    assert lit.shape == (1, 2, 4)
    assert lit[0, 0, :3].mean() > 2 * lit[0, 1, :3].mean()


def test_shadow_takes_the_key_light_only() -> None:
    light = make_light(np.zeros(16, np.float32))
    n = _normals(tuple(light.key))
    full = shade(light, n, 1.0, np.ones((1, 1), np.float32))
    dark = shade(light, n, 1.0, np.zeros((1, 1), np.float32))
    assert (dark[..., :3] > 0).all()
    assert (dark[..., :3] < full[..., :3]).all()


def test_a_wall_casts_a_shadow_on_what_is_behind_it() -> None:
    light = make_light(np.array([1.5] + [0.0] * 15, np.float32))
    span = np.linspace(-6, 6, 40, dtype=np.float32)
    x, y = np.meshgrid(span, span)
    back = np.stack([x, y, np.zeros_like(x)])
    # Only the middle of the wall is behind a smaller plate, along the light's direction.
    plate = back * 0.4 + (light.key / light.key[2] * 6)[:, None, None]
    position = np.concatenate([back, plate], axis=1)
    normal = np.zeros_like(position)
    normal[2] = 1
    lit = cast_shadow(light, position, normal, 80)
    assert lit[20, 20] < 0.7
    assert lit[2, 2] > 0.9
    assert lit[60, 20] > 0.9
