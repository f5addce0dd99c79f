"""Tune's searcher interface over the sweep's search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from ray_jobs.tuning.callbacks import WithoutSweep

if TYPE_CHECKING:
    from ray_jobs.tuning.state import Sweep


class SweepSearcher(WithoutSweep, Searcher):
    """Suggests the segments that the sweep wants trained, at most as many at a time as fit on the cluster.

    Args:
        kind: kind of trials: search, repeat or final.
        slots: trials at a time.
        first: a segment that the sweep has started already.
    """

    def __init__(self, sweep: Sweep, kind: str, slots: int, first: tuple[int, int] | None) -> None:
        super().__init__()
        self.sweep, self.kind, self.slots, self.first = sweep, kind, slots, first

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray annotates no FINISHED
        """A segment of a trial; None: ask later; FINISHED: there are no more."""
        work, self.first = self.first, None
        if work is None:
            if len(self.sweep.live) >= self.slots:
                return None
            work = self.sweep.next_segment(self.kind)
        if work is None:
            return None if self.sweep.live else Searcher.FINISHED
        number, segment = work
        return {
            "number": number,
            "segment": segment,
            "folder": self.sweep.store.segment_uri(number, segment),
            # Not read by the trial, which reads all its settings from the folder: for loggers and tables of Tune.
            **self.sweep.store.trials[number].segments[segment].parameters,
        }

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Nothing to set: the sweep knows metric, mode and space."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do: `SweepCallback` receives the trial itself."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the sweep's own files are its state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see `save`."""
