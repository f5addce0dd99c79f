"""What every section is built from: the base class, number ranges, and the error for unusable settings.

Every number has a lower and an upper bound, so that no value overflows in a component that it is handed to.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_FLOAT = 1e30  # within float32
MAX_INT = 2**40  # identities from there on are kept for held-out datasets

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=MAX_FLOAT)]
NonNegative = Annotated[float, Field(ge=0, le=MAX_FLOAT)]
Count = Annotated[int, Field(ge=1, le=MAX_INT)]
Index = Annotated[int, Field(ge=0, le=MAX_INT)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

_EXPONENT_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read_numbers(value: Any) -> Any:
    """`value`, with numbers such as 1e-4 in it, at any depth, as numbers.

    YAML 1.1 takes a number with an exponent for text unless it has both a point and a sign (1.0e-4). Settings with a
    type convert it; this is for mappings whose values have none.
    """
    if isinstance(value, dict):
        return {key: read_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT_NUMBER.fullmatch(value) else value


Options = Annotated[dict[str, Any], BeforeValidator(read_numbers)]


def _named_flip(value: Any) -> Any:
    """`flip: true` and `false` of former settings files are `sum` and `none`."""
    return {"true": "sum", "false": "none"}.get(str(value).lower(), value)


Flip = Annotated[Literal["sum", "concat", "none"], BeforeValidator(_named_flip)]
AutoFlip = Annotated[Literal["auto", "sum", "concat", "none"], BeforeValidator(_named_flip)]


class SettingsError(ValueError):
    """Settings that cannot be used. The message names the file, each field, what is wrong and what to do."""


class Section(BaseModel):
    """Base class of all sections: unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
