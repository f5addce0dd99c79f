"""The search space of a sweep: which settings are varied, their ranges and conditions.

In a YAML file a searched field has one range, or a list of ranges of which the first that applies is used:

    tune:
      space:
        ssl.queue_size: {grid: [1024, 4096, 16384]}
        augment.magnitude: {uniform: [2, 30], step: 2}
        train.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
        unpg.head: {choice: [arcface, cosface]}
        unpg.margin:
          - {uniform: [0.2, 0.6], when: {unpg.head: [arcface]}}
          - {uniform: [0.1, 0.4], when: {unpg.head: [cosface]}}

`choice` is unordered, `grid` is ordered. A field none of whose ranges applies keeps its value from the settings.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from facelib.config import Settings, SettingsError, change_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as OptunaTrial

Parameters = dict[str, Any]  # values of a trial by dotted field; fields that do not apply to it are absent
KINDS = ("choice", "grid", "uniform", "loguniform", "integer")
MAX_CORNERS = 64


@dataclass(frozen=True)
class Range:
    """Range of values of a field.

    Args:
        kind: one of `KINDS`.
        values: the values of a choice or grid.
        low, high: bounds of the other kinds, both inclusive.
        step: spacing of the allowed values, starting at `low` (0: continuous).
        log: uniform on a logarithmic scale.
        when: condition: values that other fields must have for this range to apply.
    """

    kind: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float = 0
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def sample(self, rng: np.random.Generator) -> Any:
        """A random value."""
        return self.at(float(rng.random()))

    def at(self, position: float) -> Any:
        """The value at a position 0..1 in the range."""
        if self.values:
            return self.values[min(int(position * len(self.values)), len(self.values) - 1)]
        if self.kind == "integer" or self.step:
            step = self.step or 1
            if self.log:
                # Each integer covers the interval around it, so that both ends are as likely as the others.
                low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
                value: float = round(math.exp(low + position * (high - low)))
            else:
                value = self.low + step * int(position * (int((self.high - self.low) / step + 1e-9) + 1))
            return self._rounded(min(max(value, self.low), self.high))
        if self.log:
            return self.low * (self.high / self.low) ** position
        return self.low + position * (self.high - self.low)

    def position(self, value: Any) -> float:
        """Position of a value in the range, 0..1."""
        if self.values:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def points(self, count: int) -> list[Any]:
        """All values if there are at most `count` (always for choice and grid), else `count` evenly spaced ones."""
        if self.values:
            return list(self.values)
        if self.kind == "integer" or self.step:
            allowed = np.arange(self.low, self.high + 1e-9, self.step or 1)
            if len(allowed) <= count:
                return [self._rounded(v) for v in allowed]
        return list(dict.fromkeys(self._between(i / (count - 1)) for i in range(count)))

    def ends(self) -> list[Any]:
        """Values used to check the space: both bounds, or every value of a choice or grid."""
        return list(self.values) if self.values else [self._rounded(self.low), self._rounded(self.high)]

    def perturbed(self, value: Any, rng: np.random.Generator) -> Any:
        """A value near this one: a fifth larger or smaller, a neighbor on a grid, any other choice."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        up = bool(rng.integers(2))
        if self.values:
            index = self.values.index(value) if value in self.values else 0
            return self.values[min(max(index + (1 if up else -1), 0), len(self.values) - 1)]
        moved = value * (1.2 if up else 1 / 1.2)
        if not self.log and abs(moved - value) < 0.02 * (self.high - self.low):
            moved = value + (0.1 if up else -0.1) * (
                self.high - self.low
            )  # Otherwise small values would hardly change.
        if self.kind == "integer" or self.step:
            step = self.step or 1
            # At least one step, or small numbers would never change.
            steps = max(abs(moved - value) / step, 1)
            moved = value + (1 if up else -1) * step * round(steps)
        return self._rounded(min(max(moved, self.low), self.high))

    def nearest(self, name: str, value: Any) -> Any:
        """The allowed value nearest to one inside the range.

        Raises:
            ValueError: it is outside; names the field.
        """
        if self.values:
            for allowed in self.values:
                if allowed == value and isinstance(allowed, bool) == isinstance(value, bool):
                    return allowed
            raise ValueError(f"{name}={value!r} is not one of {list(self.values)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}={value!r} is not a number")
        margin = 1e-9 * (self.high - self.low)
        if not self.low - margin <= value <= self.high + margin:
            raise ValueError(f"{name}={value!r} is not between {self.low:g} and {self.high:g}")
        if self.step:
            value = self.low + self.step * round((value - self.low) / self.step)
        return self._rounded(min(max(value, self.low), self.high))

    def distribution(self) -> "BaseDistribution":
        """The range as an Optuna distribution; see `encode`."""
        from optuna import distributions

        if self.kind == "choice":
            return distributions.CategoricalDistribution(tuple(range(len(self.values))))
        if self.kind == "grid":
            return distributions.IntDistribution(0, len(self.values) - 1)
        if self.kind == "integer":
            return distributions.IntDistribution(int(self.low), int(self.high), self.log, int(self.step) or 1)
        return distributions.FloatDistribution(float(self.low), float(self.high), self.log, self.step or None)

    def suggest(self, proposal: "OptunaTrial", name: str) -> Any:
        """The value that Optuna proposes for this range."""
        if self.kind == "choice":
            return self.values[proposal.suggest_categorical(name, tuple(range(len(self.values))))]
        if self.kind == "grid":
            return self.values[proposal.suggest_int(name, 0, len(self.values) - 1)]
        if self.kind == "integer":
            return proposal.suggest_int(name, int(self.low), int(self.high), step=int(self.step) or 1, log=self.log)
        low, high = float(self.low), float(self.high)
        return self._rounded(proposal.suggest_float(name, low, high, step=self.step or None, log=self.log))

    def encode(self, value: Any) -> Any:
        """A value in Optuna's distribution: the index for a choice or grid."""
        return self.values.index(value) if self.values else value

    def _between(self, position: float) -> Any:
        if self.log:
            value = self.low * (self.high / self.low) ** position
        else:
            value = self.low + position * (self.high - self.low)
        if self.step and not self.log:
            value = self.low + self.step * round((value - self.low) / self.step)
        return self._rounded(round(value) if self.kind == "integer" else value)

    def _rounded(self, value: float) -> Any:
        if self.kind == "integer":
            return round(value)
        return round(float(value), 12) if self.step else float(value)  # so that 0.1 + 4 * 0.05 is 0.3


class SearchSpace:
    """All searched fields.

    Args:
        tree: `tune.space` of the settings.
        settings: values of fields that are not searched.

    Raises:
        SettingsError: names the field, what is wrong with its range, and what to do.
    """

    def __init__(self, tree: Mapping[str, Any], settings: Settings) -> None:
        self.settings = settings
        self.ranges: dict[str, tuple[Range, ...]] = {}
        ranges = {name: _read_ranges(name, spec) for name, spec in tree.items()}
        if not ranges:
            raise SettingsError("tune.space: empty, so there is nothing to search")
        for name in _in_order(ranges):
            self.ranges[name] = ranges[name]
        base = settings.model_dump(mode="json")
        self._base = {
            other: _lookup(base, other, name) for name, many in ranges.items() for r in many for other in r.when
        }

    @property
    def fields(self) -> list[str]:
        """Searched fields in dependency order."""
        return list(self.ranges)

    def active(self, name: str, parameters: Parameters) -> Range | None:
        """The range of a field that applies given these values; None: the field keeps its value from the settings."""
        for candidate in self.ranges[name]:
            if all(parameters.get(other, self._base[other]) in allowed for other, allowed in candidate.when.items()):
                return candidate
        return None

    def optuna_name(self, name: str, chosen: Range) -> str:
        """Optuna's parameter name of a range; several ranges of one field are separate parameters."""
        many = self.ranges[name]
        return name if len(many) == 1 else f"{name}#{many.index(chosen)}"

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Random parameters."""
        return self.fill(lambda name, chosen: chosen.sample(rng))

    def fill(self, choose: Callable[[str, Range], Any]) -> Parameters:
        """Parameters with `choose(field, range)` for every field that applies."""
        parameters: Parameters = {}
        for name in self.ranges:
            chosen = self.active(name, parameters)
            if chosen is not None:
                parameters[name] = choose(name, chosen)
        return parameters

    def grid(self, points: int) -> list[Parameters]:
        """All combinations; continuous ranges contribute `points` values."""
        combinations: list[Parameters] = [{}]
        for name in self.ranges:
            longer = []
            for parameters in combinations:
                chosen = self.active(name, parameters)
                values = [None] if chosen is None else chosen.points(points)
                longer += [parameters if chosen is None else {**parameters, name: v} for v in values]
            combinations = longer
        return combinations

    def checked(self, parameters: Mapping[str, Any]) -> Parameters:
        """Values that were proposed from outside, rounded to the steps of their ranges.

        Raises:
            ValueError: a field that is not searched or does not apply, a missing one, or a value outside its range.
        """
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}

        def value_of(name: str, chosen: Range) -> Any:
            if name not in values:
                raise ValueError(f"{name} is missing")
            return chosen.nearest(name, values[name])

        filled = self.fill(value_of)
        for name in values.keys() - filled.keys():
            reason = "does not apply with these values" if name in self.ranges else "is not searched"
            raise ValueError(f"{name} {reason}")
        return filled

    def perturbed(self, parameters: Parameters, resample: float, rng: np.random.Generator) -> Parameters:
        """Perturbed parameters, each resampled with probability `resample` (population-based training)."""

        def move(name: str, chosen: Range) -> Any:
            if name not in parameters or rng.random() < resample:
                return chosen.sample(rng)
            return chosen.perturbed(parameters[name], rng)

        return self.fill(move)

    def apply(self, parameters: Parameters, origin: str = "trial") -> Settings:
        """The settings with these values."""
        return change_settings(self.settings, parameters, origin)

    def corners(self) -> Iterator[Parameters]:
        """Parameters at the bounds of the ranges: every bound at least once, about `MAX_CORNERS` in total at most."""
        ends = {name: [(r, e) for r in many for e in r.ends()] for name, many in self.ranges.items()}
        for name, pairs in ends.items():
            for chosen, end in pairs:
                # Force the values that the range's condition requires.
                forced = {**{other: allowed[0] for other, allowed in chosen.when.items()}, name: end}
                yield self.fill(
                    lambda n, r, f=forced: f[n] if n in f else r.ends()[0]  # type: ignore[misc]
                )
        count = math.prod(len(pairs) for pairs in ends.values())
        draw = random.Random(0)
        sides: Sequence[tuple[int, ...]]
        if 2 ** len(ends) <= MAX_CORNERS and count <= 4 * MAX_CORNERS:
            sides = list(itertools.product((0, -1), repeat=len(ends)))
        else:
            sides = [tuple(draw.choice((0, -1)) for _ in ends) for _ in range(MAX_CORNERS)]
        for side in sides:
            which = dict(zip(ends, side))
            yield self.fill(lambda n, r, w=which: r.ends()[w[n]])  # type: ignore[misc]


def check_space(space: SearchSpace, check: Callable[[Settings], None]) -> None:
    """Build the settings of every corner and some random points, and check each as the training job would.

    Args:
        check: raises SettingsError for settings that cannot be trained with.

    Raises:
        SettingsError: names the invalid combination of values.
    """
    rng = np.random.default_rng(0)
    inside = (space.sample(rng) for _ in range(8))
    seen = set()
    for parameters in itertools.chain(space.corners(), inside):
        key = repr(parameters)
        if key in seen:
            continue
        seen.add(key)
        where = "tune.space: with " + ", ".join(f"{name}={value!r}" for name, value in parameters.items())
        settings = space.apply(parameters, where)
        try:
            check(settings)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None


def _read_ranges(name: str, spec: Any) -> tuple[Range, ...]:
    specs = spec if isinstance(spec, list) else [spec]
    if not specs:
        raise SettingsError(f"tune.space.{name}: an empty list; give one range or several")
    return tuple(_read_range(f"tune.space.{name}", s) for s in specs)


def _read_range(where: str, spec: Any) -> Range:
    """Parse one range; `where` is its key in error messages."""
    if not isinstance(spec, Mapping):
        raise SettingsError(f"{where}: must be a mapping such as {{uniform: [0, 1]}}, got {spec!r}")
    kinds = [k for k in spec if k in KINDS]
    if len(kinds) != 1:
        keys = ", ".join(map(str, spec)) or "none"
        raise SettingsError(f"{where}: needs exactly one of {', '.join(KINDS)}, got {keys}")
    kind = kinds[0]
    extras = {"uniform": {"step"}, "integer": {"step", "log"}}.get(kind, set())
    known = {kind, "when", *extras}
    for key in spec:
        if key not in known:
            raise SettingsError(
                f"{where}: unknown key {key!r} for {kind}; valid keys: {', '.join(sorted(known - {kind}))}"
            )
    values = spec[kind]
    if not isinstance(values, list) or not values:
        raise SettingsError(f"{where}: {kind} needs a list, got {values!r}")
    when = _read_when(where, spec.get("when", {}))
    if kind in ("choice", "grid"):
        if len({repr(v) for v in values}) < len(values):
            raise SettingsError(f"{where}: {kind} has a duplicate value: {values}")
        return Range(kind, tuple(values), when=when)
    numbers = [*values, spec.get("step", 0)]
    wanted = (int,) if kind == "integer" else (int, float)
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, wanted) for v in numbers):
        raise SettingsError(f"{where}: {kind} needs [low, high], two {'integers' if kind == 'integer' else 'numbers'}"
                            f" (and a step of the same type, if any), got {values}")  # fmt: skip
    low, high, step = numbers
    log = kind == "loguniform" or bool(spec.get("log", False))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingsError(f"{where}: {kind} needs low < high, got {values}")
    if log and low <= 0:
        raise SettingsError(f"{where}: a logarithmic range must start above 0, got {values}")
    if step < 0 or (log and step):
        raise SettingsError(f"{where}: step must be positive and is not allowed for a logarithmic range, got {step}")
    if step:
        high = low + step * int((high - low) / step + 1e-9)
    return Range(kind, low=low, high=high, step=step, log=log, when=when)


def _read_when(where: str, spec: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(spec, Mapping):
        raise SettingsError(f"{where}: when must be a mapping such as {{unpg.head: [arcface]}}, got {spec!r}")
    return {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in spec.items()}


def _in_order(ranges: Mapping[str, tuple[Range, ...]]) -> list[str]:
    """Fields in dependency order."""
    ordered: list[str] = []
    waiting = list(ranges)
    while waiting:
        ready = [n for n in waiting if not any(o in waiting for r in ranges[n] for o in r.when)]
        if not ready:
            raise SettingsError(f"tune.space: circular conditions: {', '.join(waiting)}")
        ordered += ready
        waiting = [n for n in waiting if n not in ready]
    return ordered


def _lookup(tree: Mapping[str, Any], dotted: str, name: str) -> Any:
    node: Any = tree
    for key in dotted.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise SettingsError(f"tune.space.{name}: when: unknown setting {dotted!r}")
        node = node[key]
    return node
