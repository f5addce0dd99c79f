"""The state of a sweep in its driver: which trial is trained next, what each reported, how each ended.

All state is in the sweep's folder: `trials/0007.json` a trial's record, `trials/0007/` its model and curves,
`trials/0007/segment-0/` its checkpoints during training. Ray Tune runs the trials (`ray_jobs.tuning.driver`) and
stores nothing.
"""

import json
import time
from typing import Any

from facelib.config import Settings
from facelib.data import Folder
from facelib.data.fingerprint import claim_output_dir
from facelib.tracking import Run
from facelib.tuning.search import next_generation, next_parameters
from facelib.tuning.space import SearchSpace
from facelib.tuning.stopping import should_stop
from facelib.tuning.trial_settings import best_settings, trial_settings
from facelib.tuning.trials import (
    BASE,
    EpochReport,
    Trial,
    TrialKind,
    TrialSegment,
    TrialStore,
    best_first,
    lineage,
    replay_segments,
)
from ray_jobs.errors import JobError
from ray_jobs.progress import format_seconds
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.driver import write_result
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.plan import STORAGE_NAME, training_spec
from ray_jobs.tuning.trial_runs import TrialRuns

TASK_NAME = "task.json"
MAX_INITIAL_FAILURES = 3  # failures before the first success that end a sweep
# Settings that may change when a sweep is continued: more trials or finalists can be added.
CHANGEABLE = (
    "folder", "trials", "concurrency", "in_process", "max_failures", "finalists", "finalist_seeds", "final_seeds",
    "final", "heatmap",
)  # fmt: skip


class Sweep:
    """Trials of all kinds and the decisions about them. A context manager: on exit it ends open MLflow runs.

    Args:
        settings: with `tune`; the other sections are the base settings of all trials.
        run: the sweep's MLflow run, the parent of the trials' runs.

    Raises:
        DatasetError: the folder belongs to another sweep; names the difference.
    """

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.tune, self.run = settings, settings.tune, run
        self.space = SearchSpace(settings.tune.space, settings)
        self.faces = training_faces(settings)
        self.folder = sweep_folder(settings)
        claim_output_dir(self.folder, sweep_spec(settings, self.faces))
        self.store = TrialStore(f"{self.folder.uri}/trials")
        self.runs = TrialRuns(run)
        self.live: set[int] = set()
        self.stopping: set[int] = set()
        self.failures: dict[int, str] = {}
        self.error: Exception | None = None
        self._segment_started: dict[int, float] = {}
        self._started = time.monotonic()
        self._previous_seconds = max((r.seconds for t in self.store.trials.values() for r in t.reports), default=0.0)

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *error: object) -> None:
        self.runs.close()

    @property
    def seconds(self) -> float:
        """The sweep's own clock: run time without interruptions."""
        return self._previous_seconds + time.monotonic() - self._started

    def next_segment(self, kind: str) -> tuple[int, int] | None:
        """Start the next segment.

        Returns:
            (trial, segment); None: none can start now, and the sweep is complete if no trial is live.

        Raises:
            JobError: the first trials all failed.
        """
        self._require_success()
        trial = self._startable(kind)
        if trial is None and kind == "search":
            trial = self._new_trial()
        if trial is None and kind == "search" and not self.live:
            self._extend_population()
            trial = self._startable(kind)
        if trial is None:
            return None
        segment = trial.current
        self._start(trial, segment)
        return trial.number, segment

    def add(self, kind: TrialKind, source: Trial, seed: int) -> None:
        """Add a repeat or a final training of a search trial, unless it exists."""
        if any(t.source_trial == source.number and t.seed == seed for t in self.store.of_kind(kind)):
            return
        number = max(self.store.trials) + 1
        if kind == "repeat":
            segments = replay_segments(lineage(self.store.trials, source.number), number)
        else:
            epochs = best_settings(self.settings, source, "").train.epochs
            segments = [TrialSegment(parameters=source.parameters, stop_epoch=epochs)]
        self.store.save(Trial(number=number, kind=kind, source_trial=source.number, seed=seed, segments=segments))

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Log an epoch of a trial and save its metric; return True if the trial should stop."""
        trial = self.store.trials[number]
        self.runs[number].log_metrics(metrics, step=epoch)
        value = metrics.get(self.tune.metric)
        if value is None:
            return False
        if epoch not in [r.epoch for r in trial.reports]:
            self._add_reports(trial, {epoch: value})
            self.store.save(trial)
        others = [t for t in self.store.proposed() if t.number != number]
        # The base trial, repeats and final trainings are references for the others: never stopped.
        is_reference = trial.kind != "search" or trial.is_base
        if not is_reference and should_stop(self.tune, trial, others, self._epochs(trial)):
            self.stopping.add(number)
            return True
        return False

    def end_segment(self, number: int, index: int, error: str = "") -> None:
        """Record the end of a segment; after the last one, write the trial's result and end its MLflow run."""
        trial = self.store.trials[number]
        segment = trial.segments[index]
        failure = error or self.failures.pop(number, "")
        self.live.discard(number)
        trial.seconds += time.monotonic() - self._segment_started.pop(number, time.monotonic())
        storage = f"{self.store.segment_uri(number, index)}/{STORAGE_NAME}"
        newest = newest_checkpoint(storage)
        state = read_state(storage, newest) if newest else None
        if state is None and not failure:
            failure = "ended without a checkpoint"
        elif state is not None:
            failure = self._recover_epochs(trial, index, state["history"], failure)
        # A trial may have reached its end before the stop request.
        stopped = number in self.stopping and (trial.epoch or 0) < segment.stop_epoch
        self.stopping.discard(number)
        segment.done = True
        last = all(s.done for s in trial.segments) and segment.stop_epoch >= self._epochs(trial)
        if (failure and self._is_member(trial) and not last) or not (failure or stopped or last):
            trial.reason = failure  # A population member that failed continues from the state of another one.
        else:
            trial.state = "failed" if failure else "stopped" if stopped else "finished"
            trial.reason = failure or (f"stopped by {self.tune.scheduler} after epoch {trial.epoch}" if stopped else "")
            self._finish(trial, index, None if failure else state)
        self.store.save(trial)
        if trial.state == "finished" and not self._is_member(trial):
            self.store.delete_checkpoints(trial)

    def delete_checkpoints(self) -> None:
        """Delete the checkpoints of all trials that have ended; models, curves and histories stay."""
        for trial in self.store.trials.values():
            if trial.state != "open":
                self.store.delete_checkpoints(trial)

    def settings_of(self, trial: Trial, segment: int) -> Settings:
        """Settings a segment of a trial is trained with."""
        source = None if trial.source_trial is None else self.store.trials[trial.source_trial]
        return trial_settings(self.settings, trial, segment, self.store.trial_uri(trial.number), source)

    def _is_member(self, trial: Trial) -> bool:
        """Whether a trial belongs to the population of population-based training."""
        return self.tune.scheduler == "pbt" and trial.kind == "search" and not trial.is_base

    def _epochs(self, trial: Trial) -> int:
        """Epochs of a trial's full training."""
        if trial.kind == "final":
            return trial.segments[-1].stop_epoch
        return int(trial.parameters.get("train.epochs", self.settings.train.epochs))

    def _startable(self, kind: str) -> Trial | None:
        """The first trial with a segment that can start now."""
        for trial in self.store.of_kind(kind):
            if trial.state == "open" and trial.number not in self.live and not all(s.done for s in trial.segments):
                return trial
        return None

    def _new_trial(self) -> Trial | None:
        """The next search trial, saved before it starts; None when the sweep has all its trials."""
        number, seed = max(self.store.trials, default=-1) + 1, self.settings.seed
        parameters = {} if self.tune.base and number == BASE else next_parameters(
            self.tune, self.space, self.store.proposed(), seed
        )  # fmt: skip
        if parameters is None:
            return None
        trial = Trial(number=number, seed=seed, segments=[TrialSegment(parameters=parameters, stop_epoch=0)])
        epochs = self._epochs(trial)
        trial.segments[0].stop_epoch = min(self.tune.interval, epochs) if self._is_member(trial) else epochs
        self.store.save(trial)
        return trial

    def _extend_population(self) -> None:
        """Add the next segment to every member of the population.

        If the driver was killed in the middle of this, some members have their segment already; the others get the
        segment they would have had, because it is computed from the state before.
        """
        members = [t for t in self.store.proposed() if self._is_member(t) and t.state == "open"]
        if not members:
            return
        count = min(len(t.segments) for t in members)
        before = [t.model_copy(update={"segments": t.segments[:count]}) for t in members]
        segments = next_generation(self.tune, self.space, before, self.settings.train.epochs, self.settings.seed)
        for trial in members:
            if len(trial.segments) == count and trial.number in segments:
                trial.segments.append(segments[trial.number])
                self.store.save(trial)

    def _start(self, trial: Trial, index: int) -> None:
        """Open the trial's MLflow run and write the task that its process reads."""
        segment, settings = trial.segments[index], self.settings_of(trial, index)
        self.runs.open(trial, settings)
        if len(trial.segments) > 1 or self._is_member(trial):
            self.runs.log_parameters(trial, index)
        source = segment.warm_start_from
        task = {
            "settings": settings.model_dump(mode="json"),
            "method": self.tune.method,
            "warm_start_from": f"{self.store.segment_uri(*source)}/{STORAGE_NAME}" if source else "",
            "stop_epoch": segment.stop_epoch,
            "in_process": self.tune.in_process,
        }
        folder = Folder(self.store.segment_uri(trial.number, index)).create()
        folder.write(TASK_NAME, json.dumps(task, indent=1).encode())
        self.store.save(trial)
        self.live.add(trial.number)
        self._segment_started[trial.number] = time.monotonic()

    def _recover_epochs(self, trial: Trial, index: int, history: list[dict[str, float]], failure: str) -> str:
        """Log and save epochs of a segment whose reports were lost (the driver was killed).

        Args:
            history: all epochs of the training, from its checkpoint.
            failure: why the segment failed, or "".

        Returns:
            `failure`, or that the metric was not measured.
        """
        epochs = {
            int(row["epoch"]): {name: value for name, value in row.items() if name != "epoch"}
            for row in history
            if row["epoch"] > trial.start_epoch(index)
        }
        self.runs.log_missing_epochs(trial, epochs)
        if failure:
            return failure
        metric = self.tune.metric
        self._add_reports(trial, {epoch: row[metric] for epoch, row in epochs.items() if row.get(metric) is not None})
        if trial.reports:
            return ""
        available = ", ".join(sorted(k for k in history[-1] if k != "epoch")) if history else "no epoch was completed"
        return f"tune.metric: {metric} was not measured; available: {available}"

    def _add_reports(self, trial: Trial, values: dict[int, float]) -> None:
        reports = [EpochReport(epoch=epoch, value=value, seconds=self.seconds) for epoch, value in values.items()]
        trial.add_reports(reports, self.tune.mode, use_last=self.settings.train.selection == "last")

    def _finish(self, trial: Trial, index: int, state: dict[str, Any] | None) -> None:
        """Write the trial's model, curves and history, end its run, print its result."""
        if state is not None and state["selection"]["weights"]:
            folder = Folder(self.store.trial_uri(trial.number)).create()
            run = self.runs[trial.number]
            write_result(self.settings_of(trial, index), run, folder, self.faces.image_spec, state)
        self.runs.end(trial)
        if trial.kind == "search" and trial.score is not None:
            best = best_first(self.store.of_kind("search"), self.tune.mode)[:1]
            scores = {"score": trial.score, **({"best_score": float(best[0].score or 0)} if best else {})}
            self.run.log_metrics(scores, step=trial.number)
        print(trial_line(trial, self.tune.metric), flush=True)

    def _require_success(self) -> None:
        """End a sweep whose first trials all fail.

        Raises:
            JobError: with the reason of the first failure.
        """
        trials = self.store.proposed()
        failed = [t for t in trials if t.reason and t.state in ("failed", "open")]
        if len(failed) >= min(MAX_INITIAL_FAILURES, self.tune.trials) and not any(t.score is not None for t in trials):
            raise JobError(f"the first {len(failed)} trials failed and none has a score. Trial {failed[0].label}: "
                           f"{failed[0].reason}")  # fmt: skip


def sweep_folder(settings: Settings) -> Folder:
    """Folder of a sweep's results and trials, created if missing."""
    return Folder(settings.path(settings.tune.folder)).create()


def sweep_spec(settings: Settings, faces: TrainingFaces) -> dict[str, Any]:
    """Everything that determines the trials; a folder holds one sweep only."""
    changeable = set(CHANGEABLE)
    if settings.tune.scheduler == "pbt" or settings.tune.search == "grid":
        changeable.discard("trials")
    tune = settings.tune.model_dump(mode="json")
    spec = training_spec(settings, faces, settings.tune.method)
    return spec | {f"tune.{name}": value for name, value in tune.items() if name not in changeable}


def trial_line(trial: Trial, metric: str) -> str:
    """One line about a trial that ended, e.g. `trial 3 finished, heldout/auc 0.8123, 20 s: ssl.queue_size=1024`."""
    score = "" if trial.score is None else f", {metric} {trial.score:.4f}"
    reason = f" ({trial.reason})" if trial.reason else ""
    values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.parameters.items())
    return (
        f"{trial.title} {trial.state}{reason}{score}, {format_seconds(trial.seconds)}: {values or 'unchanged settings'}"
    )
