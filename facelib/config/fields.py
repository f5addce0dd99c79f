"""What every section is built from: the base class, number ranges, and the error for unusable settings."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class SettingsError(ValueError):
    """Settings that cannot be used. The message names the file, each field, what is wrong and what to do."""


class Section(BaseModel):
    """Base class of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
