"""Settings from YAML files and overrides, with errors that name the file and the field.

A file may name a base with `extends:`, and then contains only what differs:

    extends: quickstart.yaml        # relative to this file, or the name of a shipped config
    generate: {identities: 3000}

The file overrides its base section by section and key by key; a value that is itself a list or a mapping (`options`,
`tune.space`, `stages`) replaces the base's.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from facelib.config.aliases import rename_key, rename_settings
from facelib.config.fields import SettingsError
from facelib.config.flags import parse_flags, section_type, setting_types, suggest
from facelib.config.tree import Settings
from facelib.config.yaml_text import parse_yaml
from facelib.utils.text_files import TextFileError, read_text

SHIPPED_PACKAGE = "facelib_configs"  # the folder `configs` of the repository, as it is installed from a wheel
_CHECKOUT_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        path: YAML file, or name of a shipped config (`quickstart`); None starts from the defaults.
        overrides: `"section.field=value"` strings, or flags as on a command line (`"--section.field"`, `"value"`).

    Raises:
        SettingsError: names the file, every bad field, its value and what to do.
    """
    recipe = read_recipe(path) if path is not None else Recipe("settings")
    over = parse_flags([str(word) for word in overrides])
    files = {name: file for name, file in recipe.files.items() if name not in _dotted_names(over)}
    return _validate(merge_settings(recipe.tree, over), recipe.origin, files)


def build_settings(tree: dict[str, Any], arguments: Sequence[str] = (), origin: str = "settings") -> Settings:
    """Settings of a tree (sections and their values, as in a file), overridden by flags.

    Raises:
        SettingsError: names `origin` and every bad field.
    """
    tree = rename_settings(tree, origin)
    return _validate(merge_settings(tree, parse_flags(arguments)), origin)


def change_settings(settings: Settings, changes: Mapping[str, Any], origin: str) -> Settings:
    """Settings with some values replaced, validated again.

    Args:
        changes: values by dotted name: `train.epochs`, `seed`, a whole section, or an entry of a mapping, such as
            `augment.options.blur`.
        origin: where the changes come from, for error messages.

    Raises:
        SettingsError: an unknown name or an invalid value.
    """
    tree = settings.model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, key = rename_key(dotted, origin).split(".")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise SettingsError(f"{origin}: {dotted}: unknown setting{suggest(dotted)}")
        node[key] = value
    return build_settings(tree, origin=origin)


def merge_settings(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` overridden by `over`, section by section and key by key."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key in _sections():
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


@dataclass
class Recipe:
    """A settings file merged with its bases, not validated yet."""

    origin: str  # for error messages: the file
    tree: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # the file that set a value last, by dotted name


def read_recipe(path: str | Path) -> Recipe:
    """Read a YAML file and the bases that it extends.

    Raises:
        SettingsError: names the file that is missing, is not a YAML mapping of sections, or extends itself.
    """
    return _read_recipe(find_config(path), ())


def find_config(name: str | Path, folder: Path | None = None) -> Path:
    """The settings file that `name` refers to.

    Args:
        name: path of a file, or name of a shipped config, with or without the suffix and the folder:
            `configs/quickstart.yaml`, `quickstart.yaml`, `quickstart`.
        folder: folder that a relative path is relative to; None: the working directory.

    Raises:
        SettingsError: there is no such file and no such shipped config.
    """
    if not str(name).strip():
        raise SettingsError("the name of the settings file is empty")
    path = Path(folder or "") / Path(name).expanduser()
    if path.is_file():
        return path
    shipped = Path(name)
    if shipped.parent == Path("configs"):
        shipped = Path(shipped.name)
    for config_dir in shipped_config_dirs():
        for candidate in (config_dir / shipped, config_dir / f"{shipped}.yaml"):
            if candidate.is_file():
                return candidate
    if path.exists():
        return path  # a folder: reading it explains what is wrong
    names = ", ".join(shipped_configs())
    raise SettingsError(f"{name}: no such file" + (f", and not a shipped config ({names})" if names else ""))


def shipped_config_dirs() -> list[Path]:
    """Folders with shipped configs: the installed package, and the folder of a checkout."""
    spec = importlib.util.find_spec(SHIPPED_PACKAGE)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return [folder for folder in (*map(Path, locations), _CHECKOUT_CONFIGS) if folder.is_dir()]


def shipped_configs() -> list[str]:
    """Names of the shipped configs, without those that only serve as a base."""
    names = {path.stem for folder in shipped_config_dirs() for path in folder.glob("*.yaml")}
    return sorted(name for name in names if not name.startswith("base_"))


def _read_recipe(path: Path, children: tuple[Path, ...]) -> Recipe:
    if path.resolve() in [child.resolve() for child in children]:
        raise SettingsError(f"{path}: extends itself ({' → '.join(map(str, (*children, path)))})")
    tree = _read_yaml(path)
    base_name = tree.pop("extends", None)
    tree = rename_settings(tree, str(path))
    files = {name: str(path) for name in _dotted_names(tree)}
    if base_name is None:
        return Recipe(str(path), tree, files)
    if not isinstance(base_name, str):
        raise SettingsError(f"{path}: extends: must be the name of one file, got {base_name!r}")
    try:
        base_path = find_config(base_name, path.parent)
    except SettingsError as error:
        raise SettingsError(f"{path}: extends: {error}") from None
    base = _read_recipe(base_path, (*children, path))
    return Recipe(str(path), merge_settings(base.tree, tree), {**base.files, **files})


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(read_text(path), str(path))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except TextFileError as error:
        raise SettingsError(str(error)) from None
    except yaml.YAMLError as error:
        hint = "; indent with blanks, not tabs" if "'\\t'" in str(error) else ""
        raise SettingsError(f"{path}: not valid YAML ({error}){hint}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: must be a mapping of sections, not {type(tree).__name__}")
    return {str(key): value for key, value in tree.items()}


def _validate(tree: dict[str, Any], origin: str, files: Mapping[str, str] | None = None) -> Settings:
    try:
        return Settings(**tree)
    except ValidationError as error:
        lines = [_explain(details, origin, files or {}) for details in error.errors()]
        raise SettingsError(f"{origin}: " + "\n  ".join(["", *lines] if len(lines) > 1 else lines)) from None


def _explain(error: Any, origin: str, files: Mapping[str, str]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    file = files.get(".".join(name.split(".")[:2]), files.get(name.split(".")[0], origin))
    where = f" (in {file})" if file != origin else ""
    if error["type"] == "extra_forbidden":
        section, _, key = str(error["loc"][-1]).partition(".")
        hint = (
            f" (write it as a section: {section}: {{{key}: …}})" if key and name in setting_types() else suggest(name)
        )
        return f"{name}: unknown setting{hint}{where}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, got {error['input']!r}{where}" if name else message


def _sections() -> list[str]:
    return [name for name, member in Settings.model_fields.items() if section_type(member.annotation)]


def _dotted_names(tree: dict[str, Any]) -> list[str]:
    names = []
    for key, value in tree.items():
        names += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) and key in _sections() else [key]
    return names
