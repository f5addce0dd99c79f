import math

import numpy as np
import pytest

from facelib.config import SettingsError, load_settings
from facelib.tuning.space import SearchSpace, check_space

UNPG = {
    "unpg.head": {"choice": ["arcface", "cosface"]},
    "unpg.margin": [
        {"uniform": [0.2, 0.6], "when": {"unpg.head": ["arcface"]}},
        {"uniform": [0.1, 0.4], "when": {"unpg.head": ["cosface"]}},
    ],
    "unpg.wisk": {"choice": [None, 1.0, 1.5]},
}


def space(tree, *overrides):
    return SearchSpace(tree, load_settings(None, [*overrides]))


def test_a_sample_is_a_set_of_settings():
    searched = space({"ssl.queue_size": {"grid": [256, 512]}, "augment.magnitude": {"uniform": [2, 30]}})
    parameters = searched.sample(np.random.default_rng(0))
    settings = searched.apply(parameters)
    assert settings.ssl.queue_size == parameters["ssl.queue_size"]
    assert settings.augment.magnitude == parameters["augment.magnitude"]
    assert settings.ssl.temperature == 0.07


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"choice": ["a", None, 3]}, ["a", None, 3]),
        ({"grid": [1, 2, 4]}, [1, 2, 4]),
        ({"integer": [3, 6]}, [3, 4, 5, 6]),
        ({"integer": [2, 11], "step": 4}, [2, 6, 10]),
        ({"integer": [1, 4], "log": True}, [1, 2, 3, 4]),
        ({"uniform": [0.0, 1.0], "step": 0.25}, [0.0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_every_allowed_value_is_drawn_and_no_other(spec, allowed):
    [found] = space({"augment.options.x": spec}).ranges["augment.options.x"]
    rng = np.random.default_rng(1)
    drawn = [found.sample(rng) for _ in range(400)]
    assert {repr(v) for v in drawn} == {repr(v) for v in allowed}
    assert sorted(map(repr, found.points(10))) == sorted(map(repr, allowed))
    for value in allowed:
        moved = {found.perturbed(value, rng) for _ in range(40)}
        assert moved <= set(allowed)
        assert moved - {value}


def test_logarithmic_ranges_are_even_over_orders_of_magnitude():
    [found] = space({"train.learning_rate": {"loguniform": [1e-4, 1e-1]}}).ranges["train.learning_rate"]
    rng = np.random.default_rng(0)
    drawn = np.array([found.sample(rng) for _ in range(3000)])
    assert drawn.min() >= 1e-4
    assert drawn.max() <= 1e-1
    assert np.histogram(np.log10(drawn), [-4, -3, -2, -1])[0] / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)
    assert found.position(1e-3) == pytest.approx(1 / 3)
    assert found.at(found.position(0.02)) == pytest.approx(0.02)
    assert found.points(4) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_conditional_ranges_follow_the_field_they_depend_on():
    searched = space({"unpg.margin": UNPG["unpg.margin"], "unpg.head": UNPG["unpg.head"]})
    assert searched.fields == ["unpg.head", "unpg.margin"]
    rng = np.random.default_rng(0)
    for _ in range(100):
        p = searched.sample(rng)
        low, high = (0.2, 0.6) if p["unpg.head"] == "arcface" else (0.1, 0.4)
        assert low <= p["unpg.margin"] <= high
    # The field may also be one that is not searched: then its value in the settings counts.
    assert "unpg.margin" not in space({"unpg.margin": UNPG["unpg.margin"]}, "unpg.head=magface").sample(rng)


def test_a_grid_is_every_combination_once():
    grid = space(UNPG).grid(3)
    assert len(grid) == 2 * 3 * 3
    assert len({repr(p) for p in grid}) == len(grid)
    assert {p["unpg.margin"] for p in grid if p["unpg.head"] == "cosface"} == {0.1, 0.25, 0.4}


def test_corners_hold_every_end_of_every_range():
    corners = list(space(UNPG).corners())
    ends = {(p["unpg.head"], p["unpg.margin"]) for p in corners}
    assert {("arcface", 0.2), ("arcface", 0.6), ("cosface", 0.1), ("cosface", 0.4)} <= ends
    assert {p["unpg.wisk"] for p in corners} == {None, 1.0, 1.5}
    many = {f"augment.options.x{i}": {"uniform": [0, 1]} for i in range(12)}
    found = list(space(many).corners())
    assert len(found) <= 64 + 24
    assert all({p[name] for p in found} == {0.0, 1.0} for name in many)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, r"tune\.space: empty"),
        ({"ssl.margin": [0, 1]}, r"tune\.space\.ssl\.margin: must be a mapping such as"),
        ({"ssl.margin": {}}, r"needs exactly one of choice, grid"),
        ({"ssl.margin": {"uniform": [0, 1], "grid": [1]}}, r"needs exactly one of .*, got uniform, grid"),
        ({"ssl.margin": {"uniform": [0, 1], "stop": 2}}, r"unknown key 'stop' for uniform; valid keys: step, when"),
        ({"ssl.margin": {"uniform": [1, 0]}}, r"uniform needs low < high, got \[1, 0\]"),
        ({"ssl.margin": {"uniform": [0, 1, 2]}}, r"needs \[low, high\]"),
        ({"ssl.margin": {"uniform": [0, True]}}, r"needs \[low, high\]"),
        ({"ssl.margin": {"uniform": [0, math.inf]}}, r"needs low < high"),
        ({"ssl.queue_size": {"integer": [1.5, 3]}}, r"two integers"),
        ({"ssl.margin": {"loguniform": [0, 1]}}, r"must start above 0"),
        ({"ssl.margin": {"choice": []}}, r"choice needs a list"),
        ({"ssl.margin": {"choice": [1, 1]}}, r"has a duplicate value"),
        ({"ssl.margin": {"choice": [1], "when": {"ssl.quue": [1]}}}, r"unknown setting 'ssl\.quue'"),
        (
            {"ssl.margin": {"grid": [0, 1], "when": {"ssl.momentum": [0.9]}},
             "ssl.momentum": {"grid": [0.9, 0.99], "when": {"ssl.margin": [0]}}},
            r"circular conditions: ssl\.margin, ssl\.momentum",
        ),
    ],
)  # fmt: skip
def test_a_wrong_range_is_named(tree, message):
    with pytest.raises(SettingsError, match=message):
        space(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"ssl.quue_size": {"grid": [1, 2]}}, r"ssl\.quue_size: unknown setting \(did you mean ssl\.queue_size\?\)"),
        ({"trian.epochs": {"grid": [1, 2]}}, r"trian: unknown setting"),
        ({"augment.magnitude": {"uniform": [0, 40]}}, r"augment\.magnitude=40\.0.*less than or equal to 30.*40"),
        ({"ssl.momentum": {"uniform": [0.9, 1.0]}}, r"ssl\.momentum=1\.0.*less than 1"),
        ({"ssl.queue_size": {"uniform": [100, 200]}}, r"ssl\.queue_size"),  # a fraction somewhere inside
        ({"unpg.head": {"choice": ["arcface", "norface"]}}, r"unpg\.head='norface'"),
        ({"ssl.queue_size": {"grid": [8, 512]}}, r"8 is less than a batch"),
    ],
)
def test_values_out_of_bounds_are_found_before_the_first_trial(tree, message):
    def check(settings):
        if settings.ssl.queue_size < 64:
            raise SettingsError(f"{settings.ssl.queue_size} is less than a batch")

    with pytest.raises(SettingsError, match=message):
        check_space(space(tree), check)


def test_values_on_a_grid_of_steps_are_rounded():
    space = SearchSpace({"unpg.margin": {"uniform": [0.1, 0.5], "step": 0.05}}, load_settings())
    rng = np.random.default_rng(0)
    drawn = {space.sample(rng)["unpg.margin"] for _ in range(200)}
    assert drawn == {0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5}
    assert {space.perturbed({"unpg.margin": 0.2}, 0.0, rng)["unpg.margin"] for _ in range(50)} == {0.15, 0.25}


CHECKED = {
    "unpg.head": {"choice": ["arcface", "cosface"]},
    "unpg.margin": {"uniform": [0.2, 0.6], "step": 0.1, "when": {"unpg.head": ["arcface"]}},
    "ssl.queue_size": {"integer": [16, 64]},
}


def test_values_from_outside_are_rounded_to_the_space():
    space = SearchSpace(CHECKED, load_settings())
    point = {"unpg.head": "arcface", "unpg.margin": np.float32(0.31), "ssl.queue_size": np.int64(20)}
    checked = space.checked(point)
    assert checked == {"unpg.head": "arcface", "unpg.margin": 0.3, "ssl.queue_size": 20}
    assert {type(v) for v in checked.values()} == {str, float, int}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ssl.queue_size": 65}, r"ssl\.queue_size=65 is not between 16 and 64"),
        ({"ssl.queue_size": "many"}, r"ssl\.queue_size='many' is not a number"),
        ({"unpg.head": "magface"}, r"unpg\.head='magface' is not one of \['arcface', 'cosface'\]"),
        ({"unpg.head": "cosface"}, r"unpg\.margin does not apply with these values"),
        ({"ssl.momentum": 0.9}, r"ssl\.momentum is not searched"),
    ],
)
def test_values_outside_of_the_space_are_named(change, message):
    point = {"unpg.head": "arcface", "unpg.margin": 0.3, "ssl.queue_size": 20, **change}
    with pytest.raises(ValueError, match=message):
        SearchSpace(CHECKED, load_settings()).checked(point)
    del point["ssl.queue_size"]


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match=r"ssl\.queue_size is missing"):
        SearchSpace(CHECKED, load_settings()).checked({"unpg.head": "cosface"})
