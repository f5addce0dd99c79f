"""Trials of a sweep and their store: one small JSON file for each trial, the only state a sweep has.

A trial is saved before it starts and after every change, so an interrupted sweep is continued from these files alone.
A trial has one segment, or with population-based training one for each interval: a segment starts from the last
state of an earlier segment, its own or another trial's, with its own parameters.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from facelib.data import DatasetError, Folder

BASE = 0  # number of the trial that trains with the unchanged settings

TrialKind = Literal["search", "repeat", "final"]
# Older files have null for NaN.
_Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class TrialSegment(BaseModel):
    """A span of epochs of a trial, trained with one set of parameters.

    Args:
        parameters: values by dotted field, applied over the settings.
        stop_epoch: last epoch of this segment, counted from the beginning of the training.
        warm_start_from: (trial, segment) whose last state it starts from; None: untrained.
        done: whether it has ended, successfully or not.
    """

    parameters: dict[str, Any]
    stop_epoch: int
    warm_start_from: tuple[int, int] | None = None
    done: bool = False


class EpochReport(BaseModel):
    """What a trial reported after one epoch.

    Args:
        value: `tune.metric`; not finite if the training reported such a value.
        seconds: time of the report, by the sweep's own clock.
        order: position among the events of all trials, see `in_order`.
        metrics: everything that was logged, by name.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")  # JSON has no NaN.

    epoch: int
    value: _Number
    seconds: float
    order: int = 0
    metrics: dict[str, _Number] = Field(default_factory=dict)


class Trial(BaseModel):
    """One training of a sweep.

    Args:
        kind: `search`; `repeat` of a finalist with another seed; `final` training of the winner.
        source_trial: number of the search trial that a repeat or final training belongs to.
        state: `stopped` by the scheduler, `failed` by its own error.
        reason: why it was stopped or failed.
        score: best metric (the last one with train.selection=last); None before the first report.
        epoch: last reported epoch.
        seconds: training time.
        search_id: its id for a searcher of Ray Tune that proposed it.
        start_order, end_order: when it was started first and when it ended, see `in_order`.
        start_seconds: when it was started first, by the sweep's own clock.
    """

    number: int
    kind: TrialKind = "search"
    source_trial: int | None = None
    seed: int
    segments: list[TrialSegment]
    state: Literal["open", "finished", "stopped", "failed"] = "open"
    reason: str = ""
    run_id: str = ""
    reports: list[EpochReport] = Field(default_factory=list)
    score: float | None = None
    epoch: int | None = None
    seconds: float = 0.0
    search_id: str = ""
    start_order: int | None = None
    end_order: int | None = None
    start_seconds: float = 0.0

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the last segment."""
        return self.segments[-1].parameters

    @property
    def current(self) -> int:
        """Index of the segment that is trained now, or next."""
        return next(index for index, segment in enumerate(self.segments) if not segment.done)

    @property
    def is_base(self) -> bool:
        """Whether it is the search trial with the unchanged settings."""
        return self.number == BASE and not self.parameters and self.kind == "search"

    @property
    def label(self) -> str:
        """Its name in tables and plots."""
        return "base" if self.is_base else f"{self.number}"

    @property
    def title(self) -> str:
        """Its name on the console and in MLflow."""
        if self.kind == "search":
            return f"trial {self.label}"
        kind = "repeat" if self.kind == "repeat" else "final training"
        return f"{kind} of trial {self.source_trial}, seed {self.seed}"

    def start_epoch(self, segment: int) -> int:
        """Epochs completed before a segment starts."""
        return self.segments[segment - 1].stop_epoch if segment else 0

    def add_reports(self, reports: Sequence[EpochReport], mode: str, use_last: bool) -> None:
        """Add reports of epochs not known yet, and update score and epoch.

        Args:
            mode: `max` or `min`: which of the values is the score.
            use_last: whether the score is the last value instead of the best.
        """
        known = {r.epoch for r in self.reports}
        self.reports = sorted(
            [*self.reports, *(r for r in reports if r.epoch not in known)], key=lambda report: report.epoch
        )
        values = [r.value for r in self.reports if math.isfinite(r.value)]
        if values:
            best = max if mode == "max" else min
            self.score = values[-1] if use_last else best(values)
        self.epoch = self.reports[-1].epoch if self.reports else None


class Event(NamedTuple):
    """The start of a trial, one of its reports, or its end.

    Args:
        order: position among the events of all trials.
        report: the report; None at the start and the end.
    """

    kind: Literal["start", "report", "end"]
    order: int
    trial: Trial
    report: EpochReport | None = None


class TrialStore:
    """The trials in a folder or URI: `<number>.json` each, and a folder `<number>/` for its model and checkpoints."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri).create()
        self.folder.clean_temp_files()
        self.trials = read_trials(self.folder)
        orders = [(t.start_order or 0, t.end_order or 0, *(r.order for r in t.reports)) for t in self.trials.values()]
        self._last_order = max((max(several) for several in orders), default=0)

    def save(self, trial: Trial) -> None:
        """Write a trial atomically."""
        self.trials[trial.number] = trial
        self.folder.write(file_name(trial.number), trial.model_dump_json(indent=1).encode())

    def of_kind(self, kind: str) -> list[Trial]:
        """Trials of a kind, by number."""
        return [t for _, t in sorted(self.trials.items()) if t.kind == kind]

    def proposed(self) -> list[Trial]:
        """Trials whose parameters the search proposed: all search trials but the base trial."""
        return [t for t in self.of_kind("search") if not t.is_base]

    def next_order(self) -> int:
        """The order of the next event."""
        self._last_order += 1
        return self._last_order

    def trial_uri(self, number: int) -> str:
        """Folder of a trial: its model, curves and segments."""
        return f"{self.folder.uri}/{number:04d}"

    def segment_uri(self, number: int, segment: int) -> str:
        """Folder of a segment of a trial: its checkpoints."""
        return f"{self.trial_uri(number)}/segment-{segment}"

    def delete_checkpoints(self, trial: Trial) -> None:
        """Delete the checkpoints of a trial; its model, curves and history stay."""
        for segment in range(len(trial.segments)):
            folder = Folder(self.segment_uri(trial.number, segment))
            with contextlib.suppress(FileNotFoundError):
                folder.fs.delete_dir(folder.path)


def in_order(trials: Iterable[Trial]) -> list[Event]:
    """Starts, reports and ends of trials, in the order in which they happened."""
    events = []
    for trial in trials:
        if trial.start_order is not None:
            events.append(Event("start", trial.start_order, trial))
        events += [Event("report", report.order, trial, report) for report in trial.reports]
        if trial.end_order is not None:
            events.append(Event("end", trial.end_order, trial))
    return sorted(events, key=lambda event: event.order)


def file_name(number: int) -> str:
    """Name of a trial's file."""
    return f"{number:04d}.json"


def read_trials(folder: Folder) -> dict[int, Trial]:
    """All trials of a folder by number.

    Raises:
        DatasetError: a file is damaged.
    """
    trials = [read_trial(folder, name) for name in folder.names() if name.endswith(".json")]
    return {trial.number: trial for trial in trials}


def read_trial(folder: Folder, name: str) -> Trial:
    """Read one trial.

    Raises:
        DatasetError: the file is damaged.
    """
    try:
        return Trial.model_validate_json(folder.read(name))
    except ValidationError as error:
        raise DatasetError(
            f"{folder.uri}/{name}: is not a trial of a sweep ({error.errors()[0]['msg']}); restore the file, or use "
            "another tune.folder"
        ) from None


def best_first(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Trials with a score, best first; those trained to the end come before all others."""
    sign = -1 if mode == "max" else 1
    scored = [t for t in trials if t.score is not None and math.isfinite(t.score) and t.state != "failed"]
    return sorted(scored, key=lambda t: (t.state != "finished", sign * float(t.score or 0)))


def lineage(trials: Mapping[int, Trial], number: int) -> list[TrialSegment]:
    """The segments that led to a trial's last state, starting with the untrained network."""
    segments: list[TrialSegment] = []
    key: tuple[int, int] | None = (number, len(trials[number].segments) - 1)
    while key is not None:
        segment = trials[key[0]].segments[key[1]]
        segments.append(segment)
        key = segment.warm_start_from
    return segments[::-1]


def replay_segments(segments: Sequence[TrialSegment], number: int) -> list[TrialSegment]:
    """The same schedule as segments of trial `number`, which trains it from the beginning."""
    return [
        TrialSegment(
            parameters=s.parameters, stop_epoch=s.stop_epoch, warm_start_from=(number, index - 1) if index else None
        )
        for index, s in enumerate(segments)
    ]
