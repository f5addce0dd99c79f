"""Settings to YAML that can be loaded again."""

from typing import Any

import yaml

from facelib.config.tree import Settings


def settings_to_yaml(settings: Settings, comment: str = "", everything: bool = False) -> str:
    """Settings as a YAML file.

    Args:
        comment: first lines of the file, without `#`.
        everything: write all settings; otherwise only those that differ from the defaults.
    """
    tree = settings.model_dump(mode="json")
    if not everything:
        tree = changed_settings(tree, Settings().model_dump(mode="json"))
    header = "".join(f"# {line}\n" for line in comment.splitlines())
    return header + (yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120) if tree else "")


def changed_settings(tree: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The entries of a settings tree that differ from the defaults, section by section."""
    changed: dict[str, Any] = {}
    for name, value in tree.items():
        default = defaults[name]
        if isinstance(value, dict):
            inner = {key: entry for key, entry in value.items() if entry != default[key]}
            if inner:
                changed[name] = inner
        elif value != default:
            changed[name] = value
    return changed
