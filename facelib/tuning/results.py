"""A sweep's results in Python, read from its folder: trials, the best one, tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facelib.config import TuneSettings
from facelib.data import DatasetError, Folder
from facelib.data.fingerprint import read_spec
from facelib.tuning.report import winner_of
from facelib.tuning.trials import Trial, read_trials

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class SweepResult:
    """A sweep, finished or not.

    Args:
        folder: its folder or URI.
        tune: its settings.
        trials: all trials by number: the search's, repeats, final trainings.
    """

    folder: str
    tune: TuneSettings
    trials: list[Trial]

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __getitem__(self, index: int) -> Trial:
        return self.trials[index]

    @property
    def best(self) -> Trial | None:
        """The winner, by the mean over its repeats if there are repeats; None if no trial has a score."""
        return winner_of({trial.number: trial for trial in self.trials}, self.tune)[0]

    def to_dataframe(self) -> "DataFrame":
        """One row a trial: its parameters under their dotted names, state, score, epochs, seconds, MLflow run."""
        return _table(
            {
                "trial": trial.number,
                "kind": trial.kind,
                "source_trial": trial.source_trial,
                "seed": trial.seed,
                "state": trial.state,
                "reason": trial.reason,
                "score": trial.score,
                "epochs": trial.epoch or 0,
                "seconds": trial.seconds,
                "mlflow_run": trial.run_id,
                **trial.parameters,
            }
            for trial in self.trials
        )

    def history(self) -> "DataFrame":
        """One row an epoch of a trial: every metric that was logged, under its name; seconds of the sweep's clock."""
        return _table(
            {"trial": trial.number, "epoch": report.epoch, "seconds": report.seconds, **report.metrics}
            for trial in self.trials
            for report in trial.reports
        )


def load_sweep(folder: str) -> SweepResult:
    """Read a sweep. Nothing is changed: it may be running.

    Args:
        folder: folder or URI, `<output>/<tune.folder>`.

    Raises:
        DatasetError: it is not the folder of a sweep, or a trial's file is damaged.
    """
    opened = Folder(str(folder))
    try:
        spec = read_spec(opened)
    except FileNotFoundError:
        spec = {}
    prefix = "tune."
    tune = {
        name.removeprefix(prefix): value
        for name, value in spec.items()
        if name.removeprefix(prefix) in TuneSettings.model_fields and name.startswith(prefix)
    }
    if not tune:
        raise DatasetError(f"{opened.uri}: is not the folder of a sweep (<output>/<tune.folder>)")
    trials = read_trials(Folder(f"{opened.uri}/trials"))
    return SweepResult(opened.uri, TuneSettings(**tune), [trial for _, trial in sorted(trials.items())])


def _table(rows: Iterator[dict[str, Any]]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(list(rows))
