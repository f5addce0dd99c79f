import math

import pytest
from pydantic import Field, ValidationError

from facelib.config.fields import (
    Count,
    Fraction,
    Index,
    NonNegative,
    Options,
    Positive,
    Section,
    Seed,
    SettingsError,
    read_numbers,
)


class Example(Section):
    fraction: Fraction = 0.5
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    count: Count = 1
    index: Index = 0
    seed: Seed = 2**63 - 1
    options: Options = Field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [
        {"fraction": 1.1},
        {"positive": 0},
        {"non_negative": -0.1},
        {"count": 0},
        {"index": -1},
        {"unknown": 1},
        {"positive": math.inf},
        {"non_negative": math.nan},
        {"count": 2**41},
        {"seed": 2**63},
        {"seed": -1},
    ],
)
def test_ranges_and_names_are_checked(values):
    assert Example().count == 1
    with pytest.raises(ValidationError):
        Example(**values)


def test_a_settings_error_is_a_value_error():
    assert issubclass(SettingsError, ValueError)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1.e-4", "-.1e3", "12e5", "1.5e+10"])
def test_numbers_with_an_exponent_are_read(text):
    assert read_numbers({"a": [text, {"b": text}]}) == {"a": [float(text), {"b": float(text)}]}
    assert Example(options={"a": text}).options == {"a": float(text)}


@pytest.mark.parametrize("value", ["5", "0.5", "e5", "1e", "1e-4x", "0x1e5", "", "nan", None, True, 3])
def test_other_values_stay_as_they_are(value):
    assert read_numbers([value]) == [value]
    assert type(read_numbers(value)) is type(value)
