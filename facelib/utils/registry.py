"""Components found by name: registered in code, built in, or offered by other packages through entry points."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Component(NamedTuple):
    """What a name stands for: a factory, and the settings it gets unless the caller passes others."""

    factory: Callable[..., Any]
    preset: Mapping[str, Any]


class Registry:
    """Maps names to the classes (or functions) that build components.

    Args:
        kind: what the components are, for error messages: "generator".
        group: entry-point group in which other packages offer theirs.
        built_in: name -> module that registers it when imported; imported on first use.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group, self._built_in = kind, group, built_in
        self._registered: dict[str, Component] = {}

    def register(self, name: str, /, **preset: Any) -> Callable[[Factory], Factory]:
        """Decorator that makes `build(name, **settings)` call the class with `{**preset, **settings}`.

        Raises:
            ValueError: the name belongs to another class.
        """

        def register(factory: Factory) -> Factory:
            owner = self._owner(name, factory)
            if owner is not None:
                raise ValueError(f"{self.kind} name {name!r} is taken by {owner}: choose another name")
            self._registered[name] = Component(factory, preset)
            return factory

        return register

    def names(self) -> list[str]:
        """Every name `build` knows, sorted."""
        names = set(self._registered) | {point.name for point in entry_points(group=self.group)}
        return sorted(names | {name for name, module in self._built_in.items() if _exists(module)})

    def build(self, name: str, /, **settings: Any) -> Any:
        """The component called `name`, built with `settings`.

        Raises:
            ValueError: unknown name, unknown or missing setting (the message lists what exists), or a value that the
                component rejects.
        """
        factory, preset = self._component(name)
        parameters = inspect.signature(factory).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            unknown = sorted(set(settings) - set(parameters))
            if unknown:
                raise ValueError(
                    f"{self.kind} {name!r} has no setting {', '.join(map(repr, unknown))}; "
                    f"it has: {', '.join(parameters) or 'none'}"
                )
        settings = {**preset, **settings}
        missing = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settings
        ]
        if missing:
            raise ValueError(f"{self.kind} {name!r} needs the setting {', '.join(map(repr, missing))}")
        return factory(**settings)

    def find(self, name: str) -> Callable[..., Any]:
        """The factory of `name`; ValueError lists all names when it is unknown."""
        return self._component(name).factory

    def _component(self, name: str) -> Component:
        if name not in self._registered:
            if name in self._built_in and _exists(self._built_in[name]):
                importlib.import_module(self._built_in[name])
            else:
                for point in entry_points(group=self.group):
                    if point.name == name:
                        return Component(point.load(), {})
        if name not in self._registered:
            raise ValueError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}")
        return self._registered[name]

    def _owner(self, name: str, factory: Callable[..., Any]) -> str | None:
        """Who has the name, if it is not `factory` (a module that is reloaded registers its class again)."""
        if name in self._registered:
            taken = _qualified_name(self._registered[name].factory)
            return taken if taken != _qualified_name(factory) else None
        module = self._built_in.get(name)
        return module if module and not f"{factory.__module__}.".startswith(f"{module}.") else None


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _qualified_name(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
