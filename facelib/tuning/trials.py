"""What is known about the trials of a sweep, in one small JSON file each: the only state a sweep has.

A trial is written before it starts and after everything that happens to it, so a sweep that was killed is continued
from these files alone. A trial has one part, or with population-based training one for each interval: a part begins
with the last state of an earlier part, its own or another trial's, under parameters of its own.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from facelib.data import DatasetError, Folder

BASE = 0  # number of the trial that has the settings as they are


class TrialSegment(BaseModel):
    """A piece of a trial, trained without a break.

    Args:
        parameters: values by dotted field, over the settings.
        stop_epoch: last epoch of this part, counted from the beginning of the training.
        warm_start_from: (trial, part) whose last state it begins with; None: untrained.
        done: whether it has ended, well or not.
    """

    parameters: dict[str, Any]
    stop_epoch: int
    warm_start_from: tuple[int, int] | None = None
    done: bool = False


class Report(BaseModel):
    """The metric after one epoch, and when that was (seconds of the sweep's own clock)."""

    epoch: int
    value: float
    seconds: float


class Trial(BaseModel):
    """One training of a sweep.

    Args:
        kind: `search`; `repeat` of a finalist with another seed; `final` training of the winner.
        of: number of the search trial that a repeat or final training belongs to.
        state: `stopped` is the scheduler's doing, `failed` the trial's own.
        reason: why it was stopped or failed.
        score: best metric (last one with train.selection=last); None before the first report.
    """

    number: int
    kind: Literal["search", "repeat", "final"] = "search"
    of: int | None = None
    seed: int
    segments: list[TrialSegment]
    state: Literal["open", "finished", "stopped", "failed"] = "open"
    reason: str = ""
    run_id: str = ""
    reports: list[Report] = Field(default_factory=list)
    score: float | None = None
    epoch: int | None = None
    seconds: float = 0.0

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of its last part."""
        return self.segments[-1].parameters

    @property
    def current(self) -> int:
        """Number of the part that is trained now, or next."""
        return next(index for index, segment in enumerate(self.segments) if not segment.done)

    @property
    def label(self) -> str:
        """How it is called in tables and pictures."""
        return "base" if self.number == BASE and not self.parameters and self.kind == "search" else f"{self.number}"


class TrialStore:
    """The trials below a folder or URI, `<number>.json` each."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri).create()
        self.trials: dict[int, Trial] = {}
        self.folder.clean_temp_files()
        for name in self.folder.names():
            if name.endswith(".json"):
                trial = read_trial(self.folder, name)
                self.trials[trial.number] = trial

    def save(self, trial: Trial) -> None:
        """Write a trial; the file is whole or the old one."""
        self.trials[trial.number] = trial
        self.folder.write(file_name(trial.number), trial.model_dump_json(indent=1).encode())

    def of_kind(self, kind: str) -> list[Trial]:
        """Trials of a kind, by number."""
        return [t for _, t in sorted(self.trials.items()) if t.kind == kind]


def file_name(number: int) -> str:
    """Name of a trial's file."""
    return f"{number:04d}.json"


def read_trial(folder: Folder, name: str) -> Trial:
    """One trial; `DatasetError` when its file is damaged."""
    try:
        return Trial.model_validate_json(folder.read(name))
    except ValidationError as error:
        raise DatasetError(f"{folder.uri}/{name}: is no trial of a sweep ({error.errors()[0]['msg']})") from None


def best_first(trials: list[Trial], mode: str) -> list[Trial]:
    """Trials with a score, those that were trained to their end before all others, each group by score."""
    sign = -1 if mode == "max" else 1
    scored = [t for t in trials if t.score is not None and math.isfinite(t.score) and t.state != "failed"]
    return sorted(scored, key=lambda t: (t.state != "finished", sign * float(t.score or 0)))


def lineage(trials: dict[int, Trial], number: int) -> list[TrialSegment]:
    """The parts that led to a trial's last state, from the untrained network on."""
    segments: list[TrialSegment] = []
    place: tuple[int, int] | None = (number, len(trials[number].segments) - 1)
    while place is not None:
        segment = trials[place[0]].segments[place[1]]
        segments.append(segment)
        place = segment.warm_start_from
    return segments[::-1]
