import pytest
from pydantic import ValidationError

from facelib.config.fields import Count, Fraction, Index, NonNegative, Positive, Section, SettingsError


class Example(Section):
    fraction: Fraction = 0.5
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    count: Count = 1
    index: Index = 0


@pytest.mark.parametrize(
    "values", [{"fraction": 1.1}, {"positive": 0}, {"non_negative": -0.1}, {"count": 0}, {"index": -1}, {"unknown": 1}]
)
def test_ranges_and_names_are_checked(values):
    assert Example().count == 1
    with pytest.raises(ValidationError):
        Example(**values)


def test_a_settings_error_is_a_value_error():
    assert issubclass(SettingsError, ValueError)
