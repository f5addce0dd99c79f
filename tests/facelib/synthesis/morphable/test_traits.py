import numpy as np

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.traits import traits_of


def test_traits_of_one_code() -> None:
    traits = traits_of(identity_latents(0, np.array([4]))[0])
    assert 3 < traits.age < 90
    assert -1 <= traits.male <= 1
    assert abs(traits["nose_width"]) <= 3.6
    assert abs(float(traits.clusters.sum()) - 1) < 1e-5


def test_people_spread_over_ages_sexes_and_clusters() -> None:
    people = [traits_of(code) for code in identity_latents(0, np.arange(400))]
    ages = np.array([person.age for person in people])
    assert 0.03 < (ages < 14).mean() < 0.15
    assert 0.05 < (ages > 64).mean() < 0.25
    assert 0.4 < np.mean([person.male > 0 for person in people]) < 0.6
    share = np.bincount([int(person.clusters.argmax()) for person in people], minlength=6) / 400
    assert share.min() > 0.1
    melanin = np.array([person["melanin"] for person in people])
    nose = np.array([person["nose_width"] for person in people])
    assert melanin.std() > 1
    assert np.corrcoef(melanin, nose)[0, 1] > 0.2, "clusters tie traits together"


def test_details_are_the_persons_own_and_repeat() -> None:
    codes = identity_latents(0, np.array([1, 2]))
    first, again, other = traits_of(codes[0]), traits_of(codes[0].copy()), traits_of(codes[1])
    assert first.random(1).random() == again.random(1).random()
    assert first.random(1).random() != other.random(1).random()
    assert first.random(1).random() != first.random(2).random()
