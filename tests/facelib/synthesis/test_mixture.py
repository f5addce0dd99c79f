import numpy as np
import numpy.typing as npt
import pytest

from facelib.synthesis import FaceGenerator, build_generator
from facelib.synthesis.mixture import MixtureGenerator, MixturePart


class Plain:
    """Images of one gray level: 100 × the generator's number + the identity's code + the factor."""

    version = 3
    identity_size = 2
    identities = None
    license = "free"
    weights_hash = None

    def __init__(self, name: str, level: int, size: int = 32, factor_size: int = 1) -> None:
        self.name, self.level, self.image_size, self.factors = name, level, size, {"light": factor_size}

    def identity_codes(self, seed, identities):
        return np.stack([identities, identities], 1).astype(np.float32)

    def image_factors(self, seed, identities, indices):
        return np.repeat(indices[:, None], self.factors["light"], 1).astype(np.float32)

    def render(self, codes, factors):
        values = self.level + codes[:, 0] + 10 * factors[:, -1]
        return np.broadcast_to(values[:, None, None, None], (len(codes), self.image_size, self.image_size, 3)).astype(
            np.uint8
        )


@pytest.fixture
def mixture() -> MixtureGenerator:
    return MixtureGenerator([MixturePart(Plain("a", 0), 0.7), MixturePart(Plain("b", 100, factor_size=3), 0.3)])


def images(generator: FaceGenerator, identities: npt.ArrayLike, indices: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    numbers, places = np.asarray(identities, np.int64), np.asarray(indices, np.int64)
    return generator.render(
        generator.identity_codes(7, numbers), generator.image_factors(7, numbers, places)
    )  # fmt: skip


@pytest.mark.parametrize("first", [0, 12_345, 2**40])
def test_any_stretch_of_identities_has_the_shares(mixture: MixtureGenerator, first: int) -> None:
    for count in (10, 64, 1000):
        share = (mixture.assign(np.arange(first, first + count)) == 0).mean()
        assert abs(share - 0.7) <= 2 / count


def test_every_identity_is_drawn_by_its_own_generator(mixture: MixtureGenerator) -> None:
    numbers = np.arange(9)
    owners = mixture.assign(numbers)
    assert set(owners) == {0, 1}
    levels = images(mixture, numbers, np.full(9, 4))[:, 0, 0, 0]
    np.testing.assert_array_equal(levels, 100 * owners + numbers + 40)
    assert [mixture.source(number) for number in numbers] == ["ab"[owner] for owner in owners]


def test_rows_do_not_depend_on_the_batch(mixture: MixtureGenerator) -> None:
    whole = images(mixture, np.arange(6), np.arange(6))
    alone = np.concatenate([images(mixture, [i], [i]) for i in range(6)])
    np.testing.assert_array_equal(whole, alone)


def test_it_is_a_generator_that_names_all_of_its_own(mixture: MixtureGenerator) -> None:
    assert isinstance(mixture, FaceGenerator)
    assert mixture.factors == {"a/light": 1, "b/light": 3}
    assert mixture.license == "a: free; b: free"
    assert mixture.identity_size == 3
    other = MixtureGenerator([MixturePart(Plain("a", 0), 1), MixturePart(Plain("c", 0, factor_size=3), 1)])
    assert other.weights_hash != mixture.weights_hash


def test_two_of_one_kind_have_names_of_their_own() -> None:
    twice = MixtureGenerator([MixturePart(Plain("a", 0), 1), MixturePart(Plain("a", 50), 1)])
    assert list(twice.factors) == ["a-0/light", "a-1/light"]


def test_what_cannot_be_mixed_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        MixtureGenerator([])
    with pytest.raises(ValueError, match="share of a is 0"):
        MixtureGenerator([MixturePart(Plain("a", 0), 0)])
    with pytest.raises(ValueError, match=r"set image_size: a 32, morphable 64"):
        MixtureGenerator([MixturePart(Plain("a", 0), 1), MixturePart(build_generator("morphable", image_size=64), 1)])
    limited = Plain("a", 0)
    limited.identities = 5  # type: ignore[assignment]
    with pytest.raises(ValueError, match="a has a limited number of identities"):
        MixtureGenerator([MixturePart(limited, 1)])
