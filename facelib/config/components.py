"""Classes of Ray Tune, Optuna or the user that settings name: `{class: package.module:Class, options: {...}}`."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator

from facelib.config.fields import SettingsError, read_numbers


def class_or(*words: str) -> BeforeValidator:
    """Validator of a setting that is one of `words`, or a class: `{class: package.module:Class, options: {...}}`.

    Without words: a class, whose path alone is short for one without options.
    """
    pattern = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
    form = "{class: package.module:Class, options: {...}}"

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, str) and not words and pattern.fullmatch(value):
            return value
        if not isinstance(value, Mapping) or "class" not in value:
            choices = f"must be {', '.join(words)} or " if words else "must be package.module:Class or "
            raise ValueError(f"{choices}{form}")
        if value.keys() - {"class", "options"} or not isinstance(value.get("options") or {}, Mapping):
            raise ValueError(f"must be of the form {form}")
        if value["class"] not in words and not pattern.fullmatch(str(value["class"])):
            raise ValueError(f"class: {value['class']!r} is not of the form package.module:Class")
        return {"class": value["class"], "options": read_numbers(dict(value.get("options") or {}))}

    return BeforeValidator(check)


def class_name(value: str | Mapping[str, Any]) -> str:
    """The word of a `class_or` setting, or the name of its class without the module."""
    return str(value if isinstance(value, str) else value["class"]).rpartition(":")[2]


def load_class(setting: str, component: str | Mapping[str, Any], base: type) -> type:
    """The class that a setting names.

    Args:
        setting: the setting's name, for error messages: `tune.scheduler`.
        component: `package.module:Class`, or a mapping with such a `class`.
        base: what it must be a subclass of.

    Raises:
        SettingsError: it cannot be imported, or is not such a class.
    """
    path = component if isinstance(component, str) else component["class"]
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"{setting}: {path}: cannot be imported ({error}). A file of your own is found through PYTHONPATH, on "
            "every node"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SettingsError(f"{setting}: {path} is not a subclass of {base.__module__}.{base.__qualname__}")
    return found


def build_component(setting: str, component: str | Mapping[str, Any], base: type, **more: Any) -> Any:
    """An instance of the class that a setting names, built with its options.

    Args:
        setting, component, base: see `load_class`.
        more: further arguments; the options come first.

    Raises:
        SettingsError: see `load_class`; or the class rejects its options.
    """
    found = load_class(setting, component, base)
    options = {} if isinstance(component, str) else component.get("options") or {}
    try:
        return found(**{**more, **options})
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise SettingsError(
            f"{setting}: {found.__name__} cannot be built with options {dict(options)}: {error}"
        ) from error
