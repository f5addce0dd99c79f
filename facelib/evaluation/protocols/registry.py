"""Sets by specification: `[name=][protocol[(option=value,...)]:]path`.

lfw=/data/lfw.bin                      pairs of a .bin file (the default protocol)
heldout=/data/heldout                  pairs drawn from a face dataset
cfp=pairs(template=arcface-96):/data/cfp_fp.bin
ijbc=ijb(weighted=true):/data/IJBC     IJB 1:1
lfw=pairs(flip=concat):/data/lfw.bin   with the cosine of concatenated embeddings (every protocol has `flip`)
ijbc-search=ijb-1n:/data/IJBC          IJB 1:N
q4=kface-q4:/data/kface                K-FACE
rfw=groups:/data/rfw                   a folder of .bin files, one for each group

A name has letters, digits, "_", ".", "@" and "-". A path that exists as it is written is that path, whatever is in it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from facelib.evaluation.protocols.base import EvaluationSet
from facelib.utils.flip import flip_rule
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
FILE_OPTIONS = ("names", "pair_list")
_NOT_IN_NAMES = re.compile(r"[^\w.@-]+")
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
        files = [file if "://" in file else str(Path(file).absolute()) for file in self.files]
        if "+".join(self.files) == path:
            path = "+".join(files)
        else:
            for file, whole in zip(self.files, files, strict=True):
                path = path.replace(file, whole, 1)
        options = ",".join(f"{key}={json.dumps(_absolute(key, value))}" for key, value in self.options.items())
        return f"{self.name}={self.protocol}({options}):{path}"


def _absolute(key: str, value: Any) -> Any:
    """The value of an option; with absolute paths if it names files."""
    if key not in FILE_OPTIONS:
        return value
    return "+".join(path if "://" in path else str(Path(path).absolute()) for path in str(value).split("+"))


def register_protocol(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: `name:path` in `evaluate.sets` opens the class, a subclass of `EvaluationSet`.

    A constructor that passes `**options` on has the options of its base class too. Every set has the option `flip`.
    A package names its class in the entry-point group `facelib.protocols` instead, and every process finds it.
    """
    return PROTOCOLS.register(name)


def parse_spec(text: str) -> SetSpec:
    """Take `[name=][protocol[(option=value,...)]:]path` apart and check protocol and option names.

    Raises:
        ValueError: empty, a name with other characters, unknown protocol, or an option it does not have; what exists is
            listed.
    """
    match = _match(text.strip())
    path = str(match["path"])
    protocol = match["protocol"] or DEFAULT_PROTOCOL
    options: dict[str, Any] = {}
    for item in filter(None, (match["options"] or "").split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"set {text!r}: option {item!r} has no value; write {protocol}({key}=...):path")
        options[key.strip()] = _value(value.strip())
    known = _options(protocol)
    with_flip = known if "flip" in known else [*known, "flip"]
    for key in options:
        if key not in with_flip:
            raise ValueError(f"set {text!r}: protocol {protocol} has no option {key!r}; it has {', '.join(with_flip)}")
    if "flip" in options and "flip" not in known:
        try:
            options["flip"] = flip_rule(options["flip"])
        except ValueError as error:
            raise ValueError(f"set {text!r}: {error}") from None
    kind: Any = PROTOCOLS.find(protocol)
    files: list[str] = kind.files(path)
    name = match["name"] or _NOT_IN_NAMES.sub("-", "-".join(Path(file.rstrip("/")).stem for file in files)).strip("-")
    return SetSpec(name, protocol, options, path, tuple(files))


def open_set(text: str, defaults: Mapping[str, Any] | None = None) -> EvaluationSet:
    """Open the set that a specification describes.

    Args:
        text: see the module's notes.
        defaults: options for protocols that have them, and `flip`, where the specification says nothing.

    Raises:
        FileNotFoundError, ValueError: what is missing, damaged or unknown, by name.
    """
    spec = parse_spec(text)
    known = _options(spec.protocol)
    chosen = {key: value for key, value in spec.options.items() if key in known}
    others = {key: value for key, value in (defaults or {}).items() if key in known and key != "flip"}
    opened: EvaluationSet = PROTOCOLS.find(spec.protocol)(spec.name, spec.path, **(others | chosen))
    if "flip" in spec.options and "flip" not in known:
        opened.flip = spec.options["flip"]
    elif opened.flip is None and (default := (defaults or {}).get("flip")) is not None:
        opened.flip = flip_rule(default)
    return opened


def _match(text: str) -> Mapping[str, str | None]:
    """Name, protocol, options and path of a specification."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f"set {text!r}: write name=path, or name=protocol:path")
    found: dict[str, str | None] = match.groupdict()
    if found["name"] is None and not os.path.exists(text):
        head, equals, _ = text.partition("=")
        if equals and not re.search(r"[/:(]", head):
            raise ValueError(f"set {text!r}: the name {head!r} may have letters, digits and _ . @ - only")
    # A colon or an equals sign may belong to the path: held_10:30.
    path = str(found["path"])
    if found["protocol"] and not found["options"] and found["protocol"] not in PROTOCOLS.names():
        whole = f"{found['protocol']}:{path}"
        if os.path.exists(whole):
            found |= {"protocol": None, "path": whole}
    if found["name"] and not os.path.exists(path) and os.path.exists(text):
        found = dict.fromkeys(found) | {"path": text}
    return found


def _options(protocol: str) -> list[str]:
    """What may stand in brackets: the constructor's parameters after name and path, and those it passes on to."""
    found: list[str] = []
    for kind in inspect.getmro(cast(type, PROTOCOLS.find(protocol))):
        if "__init__" not in vars(kind):
            continue
        parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[3:]
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found += [p.name for p in parameters if p.kind not in variable and p.name not in found]
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip('"')
