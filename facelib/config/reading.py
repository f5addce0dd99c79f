"""From a YAML file and flags to settings, with errors that name the field."""

import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from facelib.config.fields import Section, SettingsError
from facelib.config.tree import Settings


def load_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `"section.field=value"` strings, or flags as on a command line (`"--section.field"`, `"value"`).

    Raises:
        SettingsError: names the file, every bad field, its value and what to do.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
        except yaml.YAMLError as error:
            raise SettingsError(f"{path}: is no YAML ({error})") from None
        if not isinstance(tree, dict):
            raise SettingsError(f"{path}: must be a mapping of sections, not {type(tree).__name__}")
    # A value may hold "=" itself; only the name of a setting before it makes the word an override.
    arguments = [f"--{o}" if re.match(r"[a-z_]+(\.[a-z_]+)?=", str(o)) else str(o) for o in overrides]
    return build_settings(tree, arguments, str(path) if path else "settings")


def build_settings(tree: dict[str, Any], arguments: Sequence[str] = (), origin: str = "settings") -> Settings:
    """Settings of a tree, as a file holds it, with flags over it.

    `SettingsError` names `origin` and every bad field.
    """
    flags = [a.split("=")[0][2:] for a in arguments if a.startswith("--")]
    for flag in flags:
        if flag not in _known_flags():
            raise SettingsError(f"--{flag}: unknown setting{_suggest(flag)}")
    try:
        if not arguments:
            return Settings(**tree)
        source: Any = CliSettingsSource(
            Settings, cli_parse_args=list(arguments), cli_exit_on_error=False, cli_prog_name="facelib"
        )
        return Settings(**_merge(tree, source()))
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise SettingsError(f"{origin}: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)) from None
    except Exception as error:  # pydantic-settings and argparse raise several kinds for a malformed flag
        raise SettingsError(f"{origin}: {error}") from None


def change_settings(settings: Settings, changes: Mapping[str, Any], origin: str) -> Settings:
    """Settings with some values replaced, checked again.

    Args:
        changes: values by dotted name: `train.epochs`, `seed`, a whole section, or an entry of a mapping, as
            `augment.options.blur`.
        origin: what the values come from, for error messages.

    Raises:
        SettingsError: an unknown name or a value that is not allowed.
    """
    tree = settings.model_dump(mode="json")
    for dotted, value in changes.items():
        *above, key = dotted.split(".")
        place: Any = tree
        for name in above:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise SettingsError(f"{origin}: {dotted}: unknown setting{_suggest(dotted)}")
        place[key] = value
    return build_settings(tree, origin=origin)


def parse_command_line(job: str, description: str, argv: Sequence[str] | None = None) -> Settings:
    """Settings of a job from its command line: `--config file.yaml [--section.field value …]`.

    `--help` prints every field. On a mistake it prints what is wrong and exits with status 2.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(f"usage: python -m ray_jobs.{job} [--config FILE.yaml] [--section.field VALUE …]\n\n{description}\n")
        print(describe_settings())
        raise SystemExit(0)
    path, rest = None, []
    while arguments:
        word = arguments.pop(0)
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] or (arguments.pop(0) if arguments else "")
        else:
            rest.append(word)
    try:
        return load_settings(path, rest)
    except SettingsError as error:
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def describe_settings() -> str:
    """One line for each field: flag, type, default, meaning with unit and range."""
    lines = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            lines += ["", f"{name}: {(section.__doc__ or '').strip()}"]
            lines += [_describe(f"{name}.{key}", f) for key, f in section.model_fields.items()]
        else:
            lines.append(_describe(name, field))
    return "\n".join(lines)


def _describe(flag: str, field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    kind = _kind(field.annotation)
    return f"  --{flag:<32} {field.description} ({kind}) [{json.dumps(default, default=str)}]"


def _kind(annotation: Any) -> str:
    """What may be given, as a reader of --help wants it: choices, or a plain type's name."""
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is dict:
        return 'JSON, {"name": value}'
    if get_origin(annotation) is list:
        return 'JSON, ["a", "b"]'
    members = [a for a in get_args(annotation) if a is not type(None)] or [annotation]
    names = {int: "whole number", float: "number", bool: "true | false", str: "text"}
    word = names.get(members[0], "number")
    return f"{word} | null" if type(None) in get_args(annotation) else word


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key in Settings.model_fields:
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _known_flags() -> list[str]:
    flags = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        is_section = isinstance(section, type) and issubclass(section, Section)
        flags += [f"{name}.{key}" for key in section.model_fields] if is_section else [name]  # type: ignore[union-attr]
    return flags


def _suggest(flag: str) -> str:
    near = difflib.get_close_matches(flag, _known_flags(), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else " (--help lists all)"


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting{_suggest(name)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, got {error['input']!r}" if name else message
