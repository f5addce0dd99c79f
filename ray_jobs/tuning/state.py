"""The state of a sweep in its driver: which trial is trained next, what each reported, how each ended.

All state is in the sweep's folder: `trials/0007.json` a trial's record, `trials/0007/` its model and curves,
`trials/0007/segment-0/` its checkpoints during training. Ray Tune runs the trials (`ray_jobs.tuning.driver`).
"""

import json
import time
from typing import Any

from facelib.config import Settings
from facelib.data import Folder
from facelib.data.fingerprint import claim_output_dir
from facelib.tracking import Run
from facelib.tuning.search import next_generation, next_parameters, trial_count
from facelib.tuning.space import Parameters, SearchSpace
from facelib.tuning.trial_settings import best_settings, trial_settings
from facelib.tuning.trials import (
    BASE,
    EpochReport,
    Trial,
    TrialKind,
    TrialSegment,
    TrialStore,
    best_first,
    in_order,
    lineage,
    replay_segments,
)
from ray_jobs.errors import JobError
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.driver import write_result
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.plan import STORAGE_NAME
from ray_jobs.tuning.hosted_scheduler import Stop, hosted_scheduler
from ray_jobs.tuning.hosted_searcher import HostedSearcher
from ray_jobs.tuning.spec import sweep_folder, sweep_spec
from ray_jobs.tuning.trial_runs import TrialRuns, trial_line

TASK_NAME = "task.json"
_BUDGET = "tune.time_budget"
MAX_INITIAL_FAILURES = 3  # failures before the first success that end a sweep


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
        self.failures: dict[int, str] = {}
        self.scheduler = hosted_scheduler(settings)
        self.searcher: HostedSearcher | None = None
        if isinstance(self.tune.search, dict):
            self.searcher = HostedSearcher(self.tune, self.space, Folder(f"{self.folder.uri}/searcher"))
            self.searcher.restore(self.store.proposed())
        self.stopping: dict[int, Stop] = {}
        for number, stop in self.scheduler.replay(in_order(self.store.proposed())).items():
            self._stop(self.store.trials[number], stop)
        self.error: Exception | None = None
        self._segment_started: dict[int, float] = {}
        self.started_at = time.strftime("%Y-%m-%d_%H-%M-%S")
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
        while True:
            self._require_success()
            trial = self._next_trial(kind)
            if trial is None:
                return None
            segment = trial.current
            if self._start(trial, segment):
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
        self.runs[number].log_epoch(metrics, epoch)
        if metrics.get(self.tune.metric) is None:
            return False
        self._add_reports(trial, {epoch: metrics})
        return number in self.stopping

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
        stop = self.stopping.pop(number, None)
        stopped = stop is not None and (trial.epoch or 0) < segment.stop_epoch
        segment.done = True
        last = all(s.done for s in trial.segments) and segment.stop_epoch >= self._epochs(trial)
        if (failure and self._is_member(trial) and not last) or not (failure or stopped or last):
            trial.reason = failure  # A population member that failed continues from the state of another one.
        else:
            trial.state = "failed" if failure else "stopped" if stop and stopped and not stop.complete else "finished"
            trial.reason = failure or (stop.reason if stop and stopped else "")
            if self._is_compared(trial):
                trial.end_order = self.store.next_order()
                self.scheduler.end(trial)
                if self.searcher is not None:
                    self.searcher.end(trial)
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

    def _is_compared(self, trial: Trial) -> bool:
        """Whether the scheduler decides about a trial.

        The base trial, repeats and final trainings are references for the others: never stopped.
        """
        return trial.kind == "search" and not trial.is_base

    def _epochs(self, trial: Trial) -> int:
        """Epochs of a trial's full training."""
        if trial.kind == "final":
            return trial.segments[-1].stop_epoch
        return int(trial.parameters.get("train.epochs", self.settings.train.epochs))

    @property
    def budget_spent(self) -> bool:
        """Whether the search has used up `tune.time_budget`."""
        return 0 < self.tune.time_budget <= self.seconds

    def left_out(self) -> str:
        """What `tune.time_budget` has left out of the search, in a sentence; empty if nothing."""
        proposed, count = self.store.proposed(), trial_count(self.tune, self.space)
        stopped = sum(t.reason.startswith(_BUDGET) for t in proposed)
        missing = count - sum(t.state != "open" for t in proposed)
        if not self.budget_spent or not (stopped or missing):
            return ""
        return (
            f"{_BUDGET}: the search ended after {self.tune.time_budget:g} s: {missing} of {count} trials were not "
            f"trained and {stopped} were stopped; a larger budget continues it"
        )

    def _stop(self, trial: Trial, stop: Stop) -> None:
        """Have a trial stopped, unless it has ended or reached its last epoch."""
        if trial.state == "open" and (trial.epoch or 0) < self._epochs(trial):
            self.stopping.setdefault(trial.number, stop)

    def _next_trial(self, kind: str) -> Trial | None:
        trial = self._startable(kind)
        if trial is None and kind == "search" and not self.budget_spent:
            trial = self._new_trial()
            if trial is None and not self.live:
                self._extend_population()
                trial = self._startable(kind)
        return trial

    def _startable(self, kind: str) -> Trial | None:
        """The first trial with a segment that can start now."""
        for trial in self.store.of_kind(kind):
            waiting = (
                trial.state == "open" and trial.number not in self.live and not all(s.done for s in trial.segments)
            )
            # Without time left, a trial that has begun is ended, and one that has not is left out.
            if waiting and (trial.reports or not self._is_compared(trial) or not self.budget_spent):
                return trial
        return None

    def _new_trial(self) -> Trial | None:
        """The next search trial, saved before it starts; None when the sweep has all its trials."""
        number = max(self.store.trials, default=-1) + 1
        proposal = ({}, "") if self.tune.base and number == BASE else self._propose(number)
        if proposal is None:
            return None
        parameters, search_id = proposal
        segment = TrialSegment(parameters=parameters, stop_epoch=0)
        trial = Trial(number=number, seed=self.settings.seed, segments=[segment], search_id=search_id)
        epochs = self._epochs(trial)
        segment.stop_epoch = min(self.tune.interval, epochs) if self._is_member(trial) else epochs
        if self.searcher is not None:
            self.searcher.save(number)
        self.store.save(trial)
        if self.searcher is not None:
            self.searcher.forget(number)
        return trial

    def _propose(self, number: int) -> tuple[Parameters, str] | None:
        """Parameters of the next trial and its id for the searcher; None when there is none."""
        proposed = self.store.proposed()
        if self.searcher is not None:
            return self.searcher.propose(number, proposed) if len(proposed) < self.tune.trials else None
        parameters = next_parameters(self.tune, self.space, proposed, self.settings.seed)
        return None if parameters is None else (parameters, "")

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

    def _start(self, trial: Trial, index: int) -> bool:
        """Open the trial's MLflow run and write the task that its process reads.

        Returns:
            False: nothing is left to train, because the trial was to be stopped when the sweep was interrupted; it has
            been ended.
        """
        settings, interrupted = self.settings_of(trial, index), trial.start_order is not None
        self.runs.open(trial, settings)
        if not interrupted:
            trial.start_order, trial.start_seconds = self.store.next_order(), self.seconds
            if self._is_compared(trial):
                self.scheduler.start(trial)
        if len(trial.segments) > 1 or self._is_member(trial):
            self.runs.log_parameters(trial, index)
        self._write_task(trial, index, settings)
        self.store.save(trial)
        self.live.add(trial.number)
        self._segment_started[trial.number] = time.monotonic()
        if interrupted and self._is_compared(trial):
            self._recover_reports(trial, index)
            if trial.number in self.stopping:
                self.end_segment(trial.number, index)
                return False
        return True

    def _write_task(self, trial: Trial, index: int, settings: Settings) -> None:
        segment = trial.segments[index]
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

    def _recover_reports(self, trial: Trial, index: int) -> None:
        """Add the epochs that were trained before an interruption but not reported, so that nothing is decided late."""
        storage = f"{self.store.segment_uri(trial.number, index)}/{STORAGE_NAME}"
        newest = newest_checkpoint(storage)
        if newest is not None:
            self._recover_epochs(trial, index, read_state(storage, newest)["history"], "")
        if self.budget_spent and trial.reports:
            self._stop(trial, self._budget_stop(trial))

    def _budget_stop(self, trial: Trial) -> Stop:
        return Stop(f"{_BUDGET}: {self.tune.time_budget:g} s were over after epoch {trial.epoch}")

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
        self._add_reports(trial, {epoch: row for epoch, row in epochs.items() if row.get(metric) is not None})
        if trial.reports:
            return ""
        available = ", ".join(sorted(k for k in history[-1] if k != "epoch")) if history else "no epoch was completed"
        return f"tune.metric: {metric} was not measured; available: {available}"

    def _add_reports(self, trial: Trial, epochs: dict[int, dict[str, float]]) -> None:
        """Save the metrics of epochs not known yet, and ask the scheduler about the trial.

        The file is written first: a new driver repeats the question, and the answer is the same.
        """
        known = {report.epoch for report in trial.reports}
        for epoch, metrics in epochs.items():
            if epoch in known:
                continue
            report = EpochReport(
                epoch=epoch,
                value=metrics[self.tune.metric],
                seconds=self.seconds,
                order=self.store.next_order(),
                metrics=metrics,
            )
            trial.add_reports([report], self.tune.mode, use_last=self.settings.train.selection == "last")
            self.store.save(trial)
            if self._is_compared(trial):
                stop = self.scheduler.report(trial, report) or (self._budget_stop(trial) if self.budget_spent else None)
                if stop is not None:
                    self._stop(trial, stop)
                if self.searcher is not None:
                    self.searcher.report(trial, report)

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
