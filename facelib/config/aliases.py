"""Old names of settings, still accepted in files and flags with a warning."""

import logging
from typing import Any

from facelib.config.fields import SettingsError

logger = logging.getLogger(__name__)

# Old dotted name -> current one. Both must be in the same section (or the same mapping below it).
ALIASES = {
    "embed.normalise": "embed.normalize",
    "augment.options.colour_jitter": "augment.options.color_jitter",
}


def rename_key(name: str, origin: str) -> str:
    """The current dotted name of a setting; logs a warning if `name` is an old one."""
    if name not in ALIASES:
        return name
    logger.warning("%s: %s is now %s", origin, name, ALIASES[name])
    return ALIASES[name]


def rename_settings(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """A settings tree with old names replaced, including those in sweeps and pipeline stages.

    Args:
        tree: sections and their values, as in a settings file.
        origin: file or flags that the tree comes from, for messages.

    Raises:
        SettingsError: a setting is given under both names.
    """
    renamed = _rename_keys(tree, origin)
    tune = renamed.get("tune")
    if isinstance(tune, dict):
        renamed["tune"] = {key: _rename_sweep(key, value, origin) for key, value in tune.items()}
    stages = renamed.get("stages")
    if isinstance(stages, list):
        renamed["stages"] = [_rename_member(stage, "set", origin) for stage in stages]
    return renamed


def _rename_keys(tree: dict[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, value in tree.items():
        old = f"{prefix}{key}"
        name = rename_key(old, origin)
        new_key = key if name == old else name.removeprefix(prefix)
        if name != old and new_key in tree:
            raise SettingsError(f"{origin}: {old} is the old name of {name}: remove it, both are given")
        renamed[new_key] = _rename_keys(value, origin, f"{name}.") if isinstance(value, dict) else value
    return renamed


def _rename_sweep(key: str, value: Any, origin: str) -> Any:
    """`tune.space`, `tune.final` and `tune.heatmap` refer to settings by dotted name."""
    if key == "heatmap" and isinstance(value, list):
        return [rename_key(name, origin) if isinstance(name, str) else name for name in value]
    if key not in ("space", "final") or not isinstance(value, dict):
        return value
    value = _rename_keys(value, origin)
    return {name: _rename_condition(spec, origin) for name, spec in value.items()} if key == "space" else value


def _rename_condition(spec: Any, origin: str) -> Any:
    if isinstance(spec, list):  # one range per condition
        return [_rename_condition(entry, origin) for entry in spec]
    return _rename_member(spec, "when", origin)


def _rename_member(mapping: Any, key: str, origin: str) -> Any:
    """`mapping` with old names replaced among the keys of `mapping[key]`."""
    if isinstance(mapping, dict) and isinstance(mapping.get(key), dict):
        return {**mapping, key: _rename_keys(mapping[key], origin)}
    return mapping
