import numpy as np
import pytest
import torch

from facelib.synthesis.latents import factor_slices, identity_latents, image_latents
from facelib.synthesis.mobilestylegan.networks import STYLE_LAYERS, MappingNetwork, style_count
from facelib.synthesis.mobilestylegan.styles import (
    EDITS,
    FACTORS,
    LARGEST,
    NEUTRAL,
    WIDTHS,
    StyleComposer,
    check_widths,
    layer_shares,
    load_directions,
)
from facelib.synthesis.mobilestylegan.weights import Weights

PLACES = factor_slices(FACTORS)
SIZE = sum(FACTORS.values())
IDENTITIES = np.arange(4)
CODES = torch.from_numpy(identity_latents(3, IDENTITIES, 512))
LAYERS = style_count(64)


@pytest.fixture(scope="module")
def mapping(weights: Weights) -> MappingNetwork:
    return MappingNetwork(weights.tables)


@pytest.fixture(scope="module")
def compose(mapping: MappingNetwork) -> StyleComposer:
    return StyleComposer(mapping, load_directions(), LAYERS, 0.9, {})


def only(factor: str, values: np.ndarray) -> torch.Tensor:
    """Factors [4, F] that are zero but in one."""
    rows = np.zeros((4, SIZE), np.float32)
    rows[:, PLACES[factor]] = values
    return torch.from_numpy(rows)


def test_directions_move_one_attribute_each() -> None:
    directions = load_directions()
    names = [name for factor in EDITS.values() for name in factor]
    assert set(directions.filters) == set(directions.edits) == set(names)
    filters = np.stack([directions.filters[name] for name in names])
    edits = np.stack([directions.edits[name] for name in names])
    product = filters @ edits.T
    moved = np.diag(product)
    assert (moved > 0).all()
    others = product / moved[None, :]  # each edit, scaled to move its own attribute by one unit
    spreads = np.array([WIDTHS[name] for name in names])
    np.testing.assert_allclose(others * spreads[None, :] / spreads[:, None], np.eye(len(names)), atol=1e-2)


def test_an_identity_has_no_pose_smile_or_side_of_light(compose: StyleComposer, mapping: MappingNetwork) -> None:
    directions = load_directions()
    styles = compose(CODES, torch.zeros(4, SIZE)).numpy()
    assert styles.shape == (4, LAYERS, 512)
    assert (styles == styles[:, :1]).all()  # all layers have the identity's own w
    own = styles[:, 0] - directions.mean
    raw = 0.9 * (mapping(CODES).numpy() - directions.mean)
    for name in directions.filters:
        before, after = raw @ directions.filters[name], own @ directions.filters[name]
        if name in NEUTRAL:
            assert np.abs(after).max() < 1e-3 * np.abs(before).max()
    assert np.linalg.norm(own, axis=1).min() > 0.7 * np.linalg.norm(raw, axis=1).min()  # the rest of it stays


@pytest.mark.parametrize(
    ("factor", "sizes"), [("rotation", {4, 8, 16}), ("expression", {8, 16, 32}), ("illumination", {32, 64, 128})]
)
def test_an_edit_goes_to_its_layers_only(compose: StyleComposer, factor: str, sizes: set[int]) -> None:
    plain = compose(CODES, torch.zeros(4, SIZE))
    edited = compose(CODES, only(factor, np.ones((4, FACTORS[factor]))))
    changed = (edited != plain).any(2).any(0).numpy()
    made = [4, 4] + [2 * size if name.endswith("up") else size for name, size in STYLE_LAYERS[2:LAYERS]]
    np.testing.assert_array_equal(changed, [size in sizes for size in made])
    # All of its layers get the same change.
    change = (edited - plain)[:, changed]
    torch.testing.assert_close(change, change[:, :1].expand_as(change), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["yaw", "mouth_width", "brightness"])
def test_one_standard_deviation_is_its_width(compose: StyleComposer, name: str) -> None:
    factor = next(factor for factor, names in EDITS.items() if name in names)
    values = np.zeros((4, FACTORS[factor]))
    values[:, EDITS[factor].index(name)] = [-1, 0, 1, 5]
    plain, edited = compose(CODES, torch.zeros(4, SIZE)), compose(CODES, only(factor, values))
    layer = int((edited != plain).any(2).any(0).nonzero()[0])
    expected = np.array([-1, 0, 1, LARGEST])[:, None] * WIDTHS[name] * load_directions().edits[name]
    expected = expected / load_directions().gains[name]
    np.testing.assert_allclose((edited - plain)[:, layer], expected, atol=1e-4)


@pytest.mark.parametrize(("factor", "layer"), [("hair", 0), ("colors", LAYERS - 1)])
def test_mixing_moves_toward_another_person(compose: StyleComposer, factor: str, layer: int) -> None:
    plain = compose(CODES, torch.zeros(4, SIZE))
    numbers = image_latents(0, IDENTITIES, IDENTITIES, FACTORS[factor])
    shares = []
    for amount in (0.0, 0.5, 30.0):
        numbers[:, 0] = amount
        moved = compose(CODES, only(factor, numbers)) - plain
        shares.append(moved[:, layer].norm(dim=1))
    assert (shares[0] == 0).all()
    torch.testing.assert_close(shares[1] / shares[2], torch.full((4,), 0.3829), atol=1e-3, rtol=0)  # P(|x| < 0.5)
    # People are mixed in that differ from each other as identities do.
    directions = [moved[n, layer] / moved[n, layer].norm() for n in range(4)]
    assert max(float(directions[a] @ directions[b]) for a in range(4) for b in range(a)) < 0.95


def test_shares_follow_the_widths() -> None:
    shares = layer_shares({**WIDTHS, "hair": 0.3, "colors": 0.5})
    assert shares["hair"][:7] == pytest.approx([0.3, 0.3, 0, 0, 0.1, 0.1, 0.1])
    assert shares["colors"][LAYERS - 1] == 0.5
    assert {len(share) for share in shares.values()} == {len(STYLE_LAYERS)}


def test_rows_do_not_depend_on_the_batch_beyond_rounding(compose: StyleComposer) -> None:
    factors = torch.from_numpy(image_latents(1, IDENTITIES, IDENTITIES, SIZE))
    alone = torch.cat([compose(CODES[n : n + 1], factors[n : n + 1]) for n in range(4)])
    torch.testing.assert_close(compose(CODES, factors), alone, atol=1e-5, rtol=1e-5)


def test_widths_are_checked() -> None:
    check_widths({"yaw": 20, "hair": 1})
    with pytest.raises(ValueError, match=r"widths has no 'jaw'; there are mouth_width, .*colors"):
        check_widths({"jaw": 1})
    with pytest.raises(ValueError, match=r"hair is 1\.5, expected 0 to 1"):
        check_widths({"hair": 1.5})
    with pytest.raises(ValueError, match="yaw is -1"):
        check_widths({"yaw": -1})
