"""Components found by name: registered in code, built in, or offered by other packages through entry points."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Registry:
    """Names and what builds them.

    Args:
        kind: what the components are, for messages: "generator".
        group: entry point group that other packages offer theirs in.
        built_in: name -> module whose import registers it; imported when asked for.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group, self._built_in = kind, group, built_in
        self._registered: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Class decorator: makes `build(name, **settings)` call the class.

        Raises:
            ValueError: another class already has the name.
        """

        def register(factory: Factory) -> Factory:
            taken = self._registered.get(name)
            if taken is not None and _qualified_name(taken) != _qualified_name(factory):
                raise ValueError(f"{self.kind} name {name!r} is taken by {_qualified_name(taken)}: choose another name")
            self._registered[name] = factory
            return factory

        return register

    def names(self) -> list[str]:
        """Every name `build` knows, sorted."""
        names = set(self._registered) | {point.name for point in entry_points(group=self.group)}
        return sorted(names | {name for name, module in self._built_in.items() if _exists(module)})

    def build(self, name: str, /, **settings: Any) -> Any:
        """The component called `name`, made with `settings`.

        Raises:
            ValueError: unknown name, unknown or missing setting (the message lists what exists), or a value it
                refuses.
        """
        factory = self.find(name)
        parameters = inspect.signature(factory).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            unknown = sorted(set(settings) - set(parameters))
            if unknown:
                raise ValueError(
                    f"{self.kind} {name!r} has no setting {', '.join(map(repr, unknown))}; "
                    f"it has: {', '.join(parameters) or 'none'}"
                )
        missing = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settings
        ]
        if missing:
            raise ValueError(f"{self.kind} {name!r} needs the setting {', '.join(map(repr, missing))}")
        return factory(**settings)

    def find(self, name: str) -> Callable[..., Any]:
        """What builds `name`; ValueError lists all names when there is no such one."""
        if name not in self._registered:
            if name in self._built_in and _exists(self._built_in[name]):
                importlib.import_module(self._built_in[name])
            else:
                for point in entry_points(group=self.group):
                    if point.name == name:
                        return point.load()  # type: ignore[no-any-return]
        if name not in self._registered:
            raise ValueError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}")
        return self._registered[name]


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _qualified_name(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
