"""YAML to plain data, without what YAML 1.1 does that nobody means: every such place is refused with its line.

A key that is given twice has its last value; 010 is 8, 1:30 is 90, and the key `yes` is the boolean true.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from facelib.config.fields import SettingsError

_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_KINDS = {"bool": "a boolean", "int": "a number", "float": "a number", "null": "null", "timestamp": "a date"}


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document.

    Args:
        name: what messages call the text: a file, a flag.

    Raises:
        yaml.YAMLError: not valid YAML.
        SettingsError: a key that is given twice, or that YAML reads as something else than it says, or such a value;
            with the line.
    """
    for problem in _problems(yaml.compose(text, Loader=yaml.SafeLoader), "", {}):
        raise SettingsError(f"{name}: {problem}")
    return yaml.safe_load(text)


def _problems(node: yaml.Node | None, path: str, finished: dict[int, bool]) -> Iterator[str]:
    """What is wrong with a node and those below it, each looked at once, however often it is referred to."""
    if node is None or id(node) in finished:
        if node is not None and not finished[id(node)]:
            yield f"line {_line(node)}: {path or 'the document'} refers to itself"
        return
    finished[id(node)] = False
    if isinstance(node, yaml.MappingNode):
        yield from _key_problems(node, path)
        for key, value in node.value:
            yield from _problems(value, f"{path}.{key.value}".lstrip("."), finished)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _problems(value, path, finished)
    elif isinstance(node, yaml.ScalarNode):
        yield from _scalar_problems(node, path)
    finished[id(node)] = True


def _key_problems(node: yaml.MappingNode, path: str) -> Iterator[str]:
    first: dict[Any, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            yield f"line {_line(key)}: a key must be a name"
            continue
        full, kind = f"{path}.{key.value}".lstrip("."), key.tag.rpartition(":")[2]
        if kind in _KINDS and (kind != "int" or not path):
            said = f"YAML reads the key {key.value} as {_KINDS[kind]}"
            yield f'line {_line(key)}: {said}; put it in quotes: "{key.value}"'
        if full in first and kind != "merge":
            yield f"{full}: given twice, in lines {first[full]} and {_line(key)}; keep one, or join them"
        first.setdefault(full, _line(key))


def _scalar_problems(node: yaml.ScalarNode, path: str) -> Iterator[str]:
    kind, text = node.tag.rpartition(":")[2], node.value
    where = f"line {_line(node)}: {path}: {text}"
    if node.style is not None or kind not in ("int", "float", "timestamp"):
        return
    if kind == "timestamp":
        yield f'{where} is a date in YAML; put it in quotes: "{text}"'
    elif ":" in text:
        yield f"{where} is the number {yaml.safe_load(text)} in YAML (base 60); write that, or put it in quotes"
    elif kind == "int" and _OCTAL.fullmatch(text):
        yield f"{where} is the octal number {yaml.safe_load(text)} in YAML; write {text.replace('_', '').lstrip('+-0')}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
