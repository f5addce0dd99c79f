"""Flags to a settings tree: `--section.field value`, `--section.field=value`.

Scalars are text that the settings' types convert. A list is JSON (`["a", "b"]`), brackets without quotes (`[a, b]`),
YAML (`[{a: 1}]`), commas (`a,b`), or a repeated flag; a mapping is JSON (`{"a": 1}`), YAML (`{a: 1}`) or `a=1,b=2`.
`null` unsets a value.
"""

import contextlib
import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, get_origin

import yaml

from facelib.config.aliases import ALIASES, rename_settings
from facelib.config.fields import Section, SettingsError
from facelib.config.tree import Settings
from facelib.config.yaml_text import parse_yaml


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings tree that flags describe, values not validated yet.

    A scalar that is given twice has the last value; lists are joined and mappings merged.

    Args:
        arguments: words of a command line: flags with their values, or `section.field=value`.

    Raises:
        SettingsError: an unknown setting, a flag without a value, or a malformed list or mapping.
    """
    known = {**setting_types(), **{old: setting_types()[new] for old, new in ALIASES.items() if new in setting_types()}}
    tree: dict[str, Any] = {}
    for name, text in _name_values(arguments, known):
        section, _, key = name.rpartition(".")
        target = tree.setdefault(section, {}) if section else tree
        value = _parse_value(name, known[name], text)
        earlier = target.get(key)
        if isinstance(value, list) and isinstance(earlier, list):
            value = [*earlier, *value]
        elif isinstance(value, dict) and isinstance(earlier, dict):
            value = {**earlier, **value}
        target[key] = value
    return rename_settings(tree, "command line")


def setting_types() -> dict[str, Any]:
    """Type annotation of every setting that has a flag, by dotted name."""
    types: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = section_type(field.annotation)
        if section is None:
            types[name] = field.annotation
        else:
            types |= {f"{name}.{key}": member.annotation for key, member in section.model_fields.items()}
    return types


def section_type(annotation: Any) -> type[Section] | None:
    """`annotation` if it is a section of the settings, else None."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def suggest(name: str) -> str:
    """The end of an error message about an unknown setting: the closest name, or where to find all."""
    near = difflib.get_close_matches(name, list(setting_types()), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else " (--help-all lists all settings)"


def _name_values(arguments: Sequence[str], known: dict[str, Any]) -> Iterator[tuple[str, str]]:
    words = iter(arguments)
    pending: str | None = None
    for word in words:
        is_flag = word.startswith("--")
        name, has_value, value = word.removeprefix("--").partition("=")
        if not is_flag and not (has_value and name.replace(".", "").replace("_", "").isalnum()):
            raise SettingsError(f"{word}: unexpected argument; settings are --section.field value")
        if name not in known:
            raise SettingsError(f"--{name}: unknown setting{suggest(name)}")
        if not has_value:
            pending = next(words, None)
            if pending is None or pending.startswith("--"):
                raise SettingsError(f"--{name}: expected one argument")
            value = pending
        yield name, value


def _parse_value(name: str, annotation: Any, text: str) -> Any:
    if text == "null":
        return None
    kind = get_origin(annotation)
    if kind is list or (
        text.lstrip().startswith("[") and list in [get_origin(choice) for choice in get_args(annotation)]
    ):
        return _parse_list(name, text)
    if kind is dict or (
        text.lstrip().startswith("{") and dict in [get_origin(choice) for choice in get_args(annotation)]
    ):
        return _parse_mapping(name, text)
    return text


def _parse_list(name: str, text: str) -> list[Any]:
    stripped = text.strip()
    if not stripped.startswith("["):
        return _split(stripped)
    # Words in brackets, without quotes: what they contain is text, and YAML would take some for other things.
    words = stripped.endswith("]") and not stripped.startswith(("[{", "[["))
    value = _parse_json(name, stripped, or_yaml=not words)
    if value is None and words:
        return _split(stripped[1:-1])
    if isinstance(value, list):
        return value
    raise SettingsError(f'--{name}: not a JSON list such as ["a", "b"], got {text!r}')


def _parse_mapping(name: str, text: str) -> dict[str, Any]:
    stripped = text.strip()
    if not stripped.startswith("{"):
        pairs = [item.partition("=") for item in _split(stripped)]
        if pairs and all(key and equals for key, equals, _ in pairs):
            return {key: _scalar(value) for key, _, value in pairs}
    else:
        value = _parse_json(name, stripped)
        if isinstance(value, dict):
            return value
    raise SettingsError(f'--{name}: not a JSON object such as {{"name": value}}, got {text!r}')


def _parse_json(name: str, text: str, or_yaml: bool = True) -> Any:
    """The value of JSON or YAML text; None if it is neither.

    Raises:
        SettingsError: a mapping has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique(name))
    except SettingsError:
        raise
    except ValueError:
        if or_yaml:
            with contextlib.suppress(yaml.YAMLError):
                return parse_yaml(text, f"--{name}")
    return None


def _unique(name: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Function that makes a dictionary of a JSON object's pairs and refuses a key that is given twice."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise SettingsError(f"--{name}: {key} is given twice; keep one")
        return dict(pairs)

    return build


def _scalar(text: str) -> Any:
    """A value of `a=1,b=2`, whose type no setting declares: as in JSON a number, true, false or null; else text."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def _split(text: str) -> list[str]:
    """Items between commas, those in parentheses, brackets or braces not counted; quotes around an item removed."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [] if not text.strip() else [item.strip().strip("\"'") for item in items]
