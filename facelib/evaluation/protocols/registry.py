"""Sets by specification: `[name=][protocol[(option=value,...)]:]path`.

lfw=/data/lfw.bin                      pairs of a .bin file (the default protocol)
heldout=/data/heldout                  pairs drawn from a face dataset
cfp=pairs(template=arcface-96):/data/cfp_fp.bin
ijbc=ijb(weighted=true):/data/IJBC     IJB 1:1
ijbc-search=ijb-1n:/data/IJBC          IJB 1:N
q4=kface-q4:/data/kface                K-FACE
rfw=groups:/data/rfw                   a folder of .bin files, one for each group
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from facelib.evaluation.protocols.base import EvaluationSet
from facelib.utils.registry import Registry

DEFAULT_PROTOCOL = "pairs"
PROTOCOLS = Registry(
    "protocol",
    "facelib.protocols",
    {
        "pairs": "facelib.evaluation.protocols.pairs",
        "groups": "facelib.evaluation.protocols.groups",
        "ijb": "facelib.evaluation.protocols.ijb",
        "ijb-1n": "facelib.evaluation.protocols.ijb_identification",
        **{f"kface-q{number}": "facelib.evaluation.protocols.kface" for number in (1, 2, 3, 4)},
    },
)
_SPEC = re.compile(
    r"(?:(?P<name>[\w.@-]+)=)?(?:(?P<protocol>[a-z][\w-]*)(?:\((?P<options>[^()]*)\))?:(?!//))?(?P<path>.+)", re.DOTALL
)
Kind = TypeVar("Kind", bound=type[EvaluationSet])


@dataclass(frozen=True)
class SetSpec:
    """A specification, taken apart; a set without a name is called as its file or folder is."""

    name: str
    protocol: str
    options: Mapping[str, Any]
    path: str
    files: tuple[str, ...]  # files or folders that must exist

    def absolute(self) -> str:
        """The specification with absolute paths, for processes in other folders."""
        path = self.path
        for file in self.files:
            path = path if "://" in file else path.replace(file, str(Path(file).absolute()), 1)
        options = ",".join(f"{key}={json.dumps(value)}" for key, value in self.options.items())
        return f"{self.name}={self.protocol}({options}):{path}"


def register_protocol(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: `name:path` in `evaluate.sets` opens the class, a subclass of `EvaluationSet`.

    A package names its class in the entry-point group `facelib.protocols` instead, and every process finds it.
    """
    return PROTOCOLS.register(name)


def parse_spec(text: str) -> SetSpec:
    """Take `[name=][protocol[(option=value,...)]:]path` apart and check protocol and option names.

    Raises:
        ValueError: empty, unknown protocol, or an option it does not have; what exists is listed.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"set {text!r}: write name=path, or name=protocol:path")
    protocol = match["protocol"] or DEFAULT_PROTOCOL
    options: dict[str, Any] = {}
    for item in filter(None, (match["options"] or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"set {text!r}: option {item!r} has no value; write {protocol}({key}=...):path")
        options[key.strip()] = _value(value.strip())
    known = _options(protocol)
    for key in options:
        if key not in known:
            raise ValueError(
                f"set {text!r}: protocol {protocol} has no option {key!r}; it has {', '.join(known) or 'none'}"
            )
    kind: Any = PROTOCOLS.find(protocol)
    files: list[str] = kind.files(match["path"])
    name = match["name"] or "-".join(Path(file.rstrip("/")).stem for file in files)
    return SetSpec(name, protocol, options, match["path"], tuple(files))


def open_set(text: str, defaults: Mapping[str, Any] | None = None) -> EvaluationSet:
    """Open the set that a specification describes.

    Args:
        text: see the module's notes.
        defaults: options for protocols that have them, where the specification says nothing.

    Raises:
        FileNotFoundError, ValueError: what is missing, damaged or unknown, by name.
    """
    spec = parse_spec(text)
    known = _options(spec.protocol)
    options = {key: value for key, value in (defaults or {}).items() if key in known} | dict(spec.options)
    opened: EvaluationSet = PROTOCOLS.find(spec.protocol)(spec.name, spec.path, **options)
    return opened


def _options(protocol: str) -> list[str]:
    """What may stand in brackets: the constructor's parameters after name and path."""
    return list(inspect.signature(PROTOCOLS.find(protocol)).parameters)[2:]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip('"')
