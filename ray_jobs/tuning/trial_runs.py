"""The MLflow runs of a sweep's trials: children of the sweep's run, opened, logged to and ended by the driver.

They are logged from the driver, not from where trials train: the tracking server may be reachable from the driver's
machine only.
"""

from facelib.config import Settings
from facelib.tracking import Run
from facelib.tracking.run import epoch_group
from facelib.tuning.trials import Trial
from ray_jobs.progress import format_seconds

RUN_STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # by state of a trial
MAX_TAG_LENGTH = 4000


class TrialRuns:
    """Open MLflow runs by trial number.

    Args:
        parent: the sweep's run.
    """

    def __init__(self, parent: Run) -> None:
        self.parent = parent
        self._runs: dict[int, Run] = {}

    def __getitem__(self, number: int) -> Run:
        return self._runs[number]

    def open(self, trial: Trial, settings: Settings) -> None:
        """Open the run of a trial, or continue it if the trial has one; does nothing if it is open already."""
        if trial.number in self._runs:
            return
        run = Run.open(settings, "trial", trial.title, self.parent.run_id, trial.run_id)
        self._runs[trial.number] = run
        trial.run_id = run.run_id
        source = "" if trial.source_trial is None else str(trial.source_trial)
        for name, value in {"trial": str(trial.number), "kind": trial.kind, "source_trial": source}.items():
            run.set_tag(f"facelib.{name}", value)

    def log_parameters(self, trial: Trial, segment: int) -> None:
        """Log the numeric parameters of a segment as metrics, which draws a population's schedule."""
        parameters = trial.segments[segment].parameters
        numbers = {f"parameter/{k}": float(v) for k, v in parameters.items() if isinstance(v, int | float)}
        self._runs[trial.number].log_metrics(numbers, step=trial.start_epoch(segment))

    def log_missing_epochs(self, trial: Trial, epochs: dict[int, dict[str, float]]) -> None:
        """Log epochs whose report was lost (the driver was killed).

        Args:
            epochs: {epoch: metrics} of a segment.
        """
        if not epochs:
            return
        run = self._runs[trial.number]
        logged = run.steps(epoch_group(next(iter(epochs[max(epochs)]))))
        for epoch, metrics in epochs.items():
            if epoch not in logged:
                run.log_epoch(metrics, epoch)

    def end(self, trial: Trial) -> None:
        """End the run of a trial with its score, state and reason."""
        run = self._runs.pop(trial.number)
        if trial.score is not None:
            run.log_metrics({"score": trial.score})
        run.set_tag("facelib.trial_state", trial.state)
        if trial.reason:
            tag = "facelib.error" if trial.state == "failed" else "facelib.reason"
            run.set_tag(tag, trial.reason[:MAX_TAG_LENGTH])
        run.end(RUN_STATUSES[trial.state])

    def close(self) -> None:
        """End all open runs as failed: their trials were interrupted, and the same command continues them."""
        for run in self._runs.values():
            run.end("FAILED")


def trial_line(trial: Trial, metric: str) -> str:
    """One line about a trial that ended, e.g. `trial 3 finished, heldout/auc 0.8123, 20 s: ssl.queue_size=1024`."""
    score = "" if trial.score is None else f", {metric} {trial.score:.4f}"
    reason = f" ({trial.reason})" if trial.reason else ""
    values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.parameters.items())
    return (
        f"{trial.title} {trial.state}{reason}{score}, {format_seconds(trial.seconds)}: {values or 'unchanged settings'}"
    )
