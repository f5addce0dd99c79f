"""Reading constants out of an OpenVINO IR (a graph as `.xml`, its constants as `.bin`), without OpenVINO.

The XML may come from anyone: document types and entities are refused, sizes are bounded, nothing is resolved or run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

_DTYPES = {"f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4"}
_MAX_XML_BYTES = 16 << 20
_MAX_LAYERS = 20_000


@dataclass(frozen=True)
class Node:
    """One operation of the graph: its type, name, attributes and the nodes whose outputs it takes, in order."""

    kind: str
    name: str
    attributes: Mapping[str, str]
    inputs: tuple[str, ...]


class Graph:
    """A parsed IR: nodes by id, and constants by node.

    Args:
        xml: the graph.
        data: the constants.
        name: of the file, for messages.

    Raises:
        ValueError: not an IR, or one that breaks the bounds.
    """

    def __init__(self, xml: bytes, data: bytes, name: str) -> None:
        if len(xml) > _MAX_XML_BYTES:
            raise ValueError(f"{name}: {len(xml)} bytes of XML, at most {_MAX_XML_BYTES} are read")
        self.name, self._data = name, data
        parser = _Parser()
        try:
            parser.parse(xml)
        except (expat.ExpatError, KeyError, ValueError) as error:
            raise ValueError(f"{name}: not a readable OpenVINO graph ({error})") from None
        self.nodes = parser.nodes()
        self._ids = {node.name: number for number, node in self.nodes.items()}
        self._users: dict[str, list[str]] = {}
        for number, node in self.nodes.items():
            for source in node.inputs:
                self._users.setdefault(source, []).append(number)

    def id_of(self, name: str) -> str:
        """The id of the node called `name`; ValueError when there is none."""
        if name not in self._ids:
            raise ValueError(f"{self.name}: has no {name!r}: it is not the network that is expected here")
        return self._ids[name]

    def user(self, node: str, kind: str) -> str:
        """The one node of type `kind` that takes the output of `node`."""
        found = [user for user in self._users.get(node, []) if self.nodes[user].kind == kind]
        if len(found) != 1:
            raise ValueError(f"{self.name}: {self.nodes[node].name!r} has {len(found)} users of type {kind}, not one")
        return found[0]

    def input(self, node: str, kind: str) -> str:
        """The one input of `node` of type `kind`."""
        found = [source for source in self.nodes[node].inputs if self.nodes[source].kind == kind]
        if len(found) != 1:
            raise ValueError(f"{self.name}: {self.nodes[node].name!r} has {len(found)} inputs of type {kind}, not one")
        return found[0]

    def constant(self, node: str) -> npt.NDArray[Any]:
        """The value of a Const node.

        Raises:
            ValueError: another node, an unknown type, or a range outside the `.bin` file.
        """
        entry = self.nodes[node]
        attributes = entry.attributes
        try:
            dtype = np.dtype(_DTYPES[attributes["element_type"]])
            shape = tuple(int(n) for n in attributes["shape"].split(",") if n.strip())
            offset, size = int(attributes["offset"]), int(attributes["size"])
        except (KeyError, ValueError):
            raise ValueError(f"{self.name}: {entry.name!r} is not a constant of a known type") from None
        if (
            min((0, *shape)) < 0
            or size != math.prod(shape) * dtype.itemsize
            or not 0 <= offset <= len(self._data) - size
        ):
            raise ValueError(f"{self.name}: {entry.name!r} {list(shape)} does not fit into the .bin file: damaged?")
        return np.frombuffer(self._data, dtype, math.prod(shape), offset).reshape(shape)


def read_graph(xml: Path, data: Path) -> Graph:
    """The graph in `xml` with the constants in `data`.

    Raises:
        ValueError: see `Graph`.
        OSError: a file is missing or unreadable.
    """
    return Graph(xml.read_bytes(), data.read_bytes(), str(xml))


class _Parser:
    """Collects layers and edges from expat's events."""

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, Any]] = {}
        self._edges: list[tuple[str, int, str]] = []
        self._layer: dict[str, Any] | None = None

    def parse(self, xml: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.Parse(xml, True)

    def nodes(self) -> dict[str, Node]:
        inputs: dict[str, list[str]] = {number: [] for number in self._layers}
        for target, _, source in sorted(self._edges):
            if source not in self._layers:
                raise ValueError(f"an edge starts at layer {source}, which does not exist")
            inputs[target].append(source)
        return {
            number: Node(layer["type"], layer["name"], layer["data"], tuple(inputs[number]))
            for number, layer in self._layers.items()
        }

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "layer":
            if len(self._layers) >= _MAX_LAYERS:
                raise ValueError(f"more than {_MAX_LAYERS} layers")
            self._layer = {"type": attributes["type"], "name": attributes["name"], "data": {}}
            self._layers[attributes["id"]] = self._layer
        elif tag == "data" and self._layer is not None:
            self._layer["data"] = dict(attributes)
        elif tag == "edge":
            edge = attributes["to-layer"], int(attributes["to-port"]), attributes["from-layer"]
            self._edges.append(edge)

    def _end(self, tag: str) -> None:
        if tag == "layer":
            self._layer = None

    @staticmethod
    def _refuse(*_: Any) -> None:
        raise ValueError("it declares a document type or an entity")
