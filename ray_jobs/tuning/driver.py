"""A sweep in its driver: what is tried next, what has become of each trial, and their runs in MLflow.

Everything it knows lies in its folder: `trials/0007.json` what happened to a trial, `trials/0007/` its model and
curves, `trials/0007/part-0/` its checkpoints while it is trained. Ray Tune runs the trials (`ray_jobs.tuning.trials`)
and keeps nothing.
"""

import contextlib
import json
import math
import time
from typing import Any

from facelib.config import Settings, change_settings
from facelib.data import Folder
from facelib.data.fingerprint import claim_output_dir
from facelib.tracking import Run
from facelib.tuning.report import best_settings, own_changes, own_segments
from facelib.tuning.search import next_generation, next_parameters
from facelib.tuning.space import SearchSpace
from facelib.tuning.stopping import should_stop
from facelib.tuning.trials import BASE, Report, Trial, TrialSegment, TrialStore, best_first, lineage
from ray_jobs.errors import JobError
from ray_jobs.progress import format_seconds
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.driver import STORAGE_NAME, training_spec, write_result
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.online_faces import training_faces

TASK_NAME = "task.json"
MAX_INITIAL_FAILURES = 3  # So many failures before the first success end a sweep.
STATUSES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Sweep:
    """Trials of all kinds, and the decisions about them. Use it in a `with`: open MLflow runs are ended.

    Args:
        settings: with `tune`; the other sections are what trials have in common.
        run: the sweep's own, the parent of its trials'.

    Raises:
        DatasetError: the folder belongs to another sweep; the difference is named.
    """

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.tune, self.run = settings, settings.tune, run
        self.space = SearchSpace(settings.tune.space, settings)
        self.faces = training_faces(settings)
        self.folder = sweep_folder(settings)
        claim_output_dir(self.folder, sweep_spec(settings, self.faces))
        self.store = TrialStore(f"{self.folder.uri}/trials")
        self.live: set[int] = set()
        self.stopping: set[int] = set()
        self.failures: dict[int, str] = {}
        self.error: Exception | None = None
        self._runs: dict[int, Run] = {}
        self._begun: dict[int, float] = {}
        self._started = time.monotonic()
        self._before = max((r.seconds for t in self.store.trials.values() for r in t.reports), default=0.0)

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *error: object) -> None:
        # Whoever is still training now is taken up by the same command; its run is one that did not succeed.
        for run in self._runs.values():
            run.end("FAILED")

    @property
    def seconds(self) -> float:
        """The sweep's own clock: how long it has run, interruptions left out."""
        return self._before + time.monotonic() - self._started

    def trial_uri(self, number: int) -> str:
        """Folder of a trial."""
        return f"{self.store.folder.uri}/{number:04d}"

    def segment_uri(self, number: int, segment: int) -> str:
        """Folder of a part of a trial, where its checkpoints are."""
        return f"{self.trial_uri(number)}/part-{segment}"

    def settings_of(self, trial: Trial, segment: int) -> Settings:
        """What a part of a trial is trained with."""
        settings, train = self.settings, self.settings.train
        parameters = trial.segments[segment].parameters
        if trial.kind == "final":
            settings, parameters = best_settings(settings, self.store.trials[trial.of or 0], ""), {}
        changes = {
            **own_changes(settings, parameters, self.trial_uri(trial.number)),
            "name": f"{self.settings.name}/{_name(trial)}",
            "seed": trial.seed,
            # A trial is not alone on its machine: as many threads as it has reserved.
            "train.threads": train.threads or max(1, int(train.cpus_per_worker)),
            "tracking.system_metrics": False,
        }
        return change_settings(settings, changes, f"trial {trial.number}")

    def next_work(self, kind: str) -> tuple[int, int] | None:
        """(trial, part) to be trained next, begun; None: nothing now, and nothing at all if no trial is live."""
        self._require_hope()
        trial = self._waiting(kind)
        if trial is None and kind == "search":
            trial = self._new_trial()
        if trial is None and kind == "search" and not self.live:
            self._grow_population()
            trial = self._waiting(kind)
        if trial is None:
            return None
        index = trial.current
        self._begin(trial, index)
        return trial.number, index

    def add(self, kind: str, of: Trial, seed: int) -> None:
        """Plan a repeat or a final training, unless it is there."""
        if any(t.of == of.number and t.seed == seed for t in self.store.of_kind(kind)):
            return
        number = max(self.store.trials) + 1
        if kind == "repeat":
            segments = own_segments(lineage(self.store.trials, of.number), number)
        else:
            segments = [
                TrialSegment(parameters=of.parameters, stop_epoch=best_settings(self.settings, of, "").train.epochs)
            ]
        self.store.save(Trial(number=number, kind=kind, of=of.number, seed=seed, segments=segments))  # type: ignore[arg-type]

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Log a trial's epoch, note its metric; True when the trial is to be stopped."""
        trial = self.store.trials[number]
        # Here, not where it trains: the tracking server may listen on the driver's machine alone.
        self._runs[number].log_metrics(metrics, step=epoch)
        value = metrics.get(self.tune.metric)
        if value is None:
            return False
        if epoch not in [r.epoch for r in trial.reports]:
            trial.reports.append(Report(epoch=epoch, value=value, seconds=self.seconds))
            self._score(trial)
            self.store.save(trial)
        others = [t for t in self._searched() if t.number != number]
        # The settings as they are, repeats and final trainings are what others are measured by.
        spared = trial.kind != "search" or trial.label == "base"
        if not spared and should_stop(self.tune, trial, others, self._epochs(trial)):
            self.stopping.add(number)
            return True
        return False

    def end_segment(self, number: int, index: int, error: str = "") -> None:
        """Note the end of a part: write its result if it was the last one, end its run in MLflow."""
        trial = self.store.trials[number]
        segment = trial.segments[index]
        failure = error or self.failures.pop(number, "")
        self.live.discard(number)
        trial.seconds += time.monotonic() - self._begun.pop(number, time.monotonic())
        storage = f"{self.segment_uri(number, index)}/{STORAGE_NAME}"
        newest = newest_checkpoint(storage)
        state = read_state(storage, newest) if newest else None
        if state is None and not failure:
            failure = "ended without a checkpoint"
        elif state is not None:
            self._log_missed(trial, index, state["history"])
            failure = failure or self._take_history(trial, index, state["history"])
        # A trial may have come to its end before it could be told to stop.
        stopped = number in self.stopping and (trial.epoch or 0) < segment.stop_epoch
        self.stopping.discard(number)
        segment.done = True
        last = all(p.done for p in trial.segments) and segment.stop_epoch >= self._epochs(trial)
        if (failure and self._is_member(trial) and not last) or not (failure or stopped or last):
            trial.reason = failure  # A member that failed goes on from the state of another one.
        else:
            trial.state = "failed" if failure else "stopped" if stopped else "finished"
            trial.reason = failure or (f"stopped by {self.tune.scheduler} after epoch {trial.epoch}" if stopped else "")
            self._write(trial, index, None if failure else state)
        self.store.save(trial)
        if trial.state == "finished" and not self._is_member(trial):
            self._delete_checkpoints(trial)

    def clean(self) -> None:
        """Delete the checkpoints of all trials that have ended; models, curves and histories stay."""
        for trial in self.store.trials.values():
            if trial.state != "open":
                self._delete_checkpoints(trial)

    def _delete_checkpoints(self, trial: Trial) -> None:
        for index in range(len(trial.segments)):
            folder = Folder(self.segment_uri(trial.number, index))
            with contextlib.suppress(FileNotFoundError):
                folder.fs.delete_dir(folder.path)

    def _searched(self) -> list[Trial]:
        """Search trials without the one that has the settings as they are."""
        return [t for t in self.store.of_kind("search") if t.label != "base"]

    def _is_member(self, trial: Trial) -> bool:
        return self.tune.scheduler == "pbt" and trial.kind == "search" and trial.label != "base"

    def _epochs(self, trial: Trial) -> int:
        """Epochs of a trial's whole training."""
        if trial.kind == "final":
            return trial.segments[-1].stop_epoch
        return int(trial.parameters.get("train.epochs", self.settings.train.epochs))

    def _waiting(self, kind: str) -> Trial | None:
        """The first trial that could be trained now."""
        for trial in self.store.of_kind(kind):
            if trial.state == "open" and trial.number not in self.live and not all(p.done for p in trial.segments):
                return trial
        return None

    def _new_trial(self) -> Trial | None:
        """The next search trial, on disk before it starts; None when there have been enough."""
        number, seed = max(self.store.trials, default=-1) + 1, self.settings.seed
        parameters = {} if self.tune.base and number == BASE else next_parameters(
            self.tune, self.space, self._searched(), seed
        )  # fmt: skip
        if parameters is None:
            return None
        trial = Trial(number=number, seed=seed, segments=[TrialSegment(parameters=parameters, stop_epoch=0)])
        epochs = self._epochs(trial)
        trial.segments[0].stop_epoch = min(self.tune.interval, epochs) if self._is_member(trial) else epochs
        self.store.save(trial)
        return trial

    def _grow_population(self) -> None:
        """Give every member its next part.

        A driver that was killed while it did so has left some members without: they get what they would have got.
        """
        members = [t for t in self._searched() if self._is_member(t) and t.state == "open"]
        if not members:
            return
        count = min(len(t.segments) for t in members)
        then = [t.model_copy(update={"parts": t.segments[:count]}) for t in members]
        segments = next_generation(self.tune, self.space, then, self.settings.train.epochs, self.settings.seed)
        for trial in members:
            if len(trial.segments) == count and trial.number in segments:
                trial.segments.append(segments[trial.number])
                self.store.save(trial)

    def _begin(self, trial: Trial, index: int) -> None:
        """Open the trial's run and write down what its process must know."""
        number, segment = trial.number, trial.segments[index]
        settings = self.settings_of(trial, index)
        if number not in self._runs:
            self._runs[number] = Run.open(settings, "trial", _name(trial), self.run.run_id, trial.run_id)
            trial.run_id = self._runs[number].run_id
            tags = {"trial": str(number), "kind": trial.kind, "of": "" if trial.of is None else str(trial.of)}
            for name, value in tags.items():
                self._runs[number].set_tag(f"facelib.{name}", value)
        if len(trial.segments) > 1 or self._is_member(trial):
            numbers = {f"parameter/{k}": float(v) for k, v in segment.parameters.items() if isinstance(v, int | float)}
            self._runs[number].log_metrics(numbers, step=trial.segments[index - 1].stop_epoch if index else 0)
        before = segment.warm_start_from
        task = {
            "settings": settings.model_dump(mode="json"),
            "method": self.tune.method,
            "warm_start_from": f"{self.segment_uri(*before)}/{STORAGE_NAME}" if before else "",
            "stop_epoch": segment.stop_epoch,
            "in_process": self.tune.in_process,
        }
        Folder(self.segment_uri(number, index)).create().write(TASK_NAME, json.dumps(task, indent=1).encode())
        self.store.save(trial)
        self.live.add(number)
        self._begun[number] = time.monotonic()

    def _log_missed(self, trial: Trial, index: int, history: list[dict[str, float]]) -> None:
        """Log epochs of a part whose report was lost on the way (a killed driver)."""
        first, run = trial.segments[index - 1].stop_epoch if index else 0, self._runs[trial.number]
        rows = {int(row["epoch"]): {k: v for k, v in row.items() if k != "epoch"} for row in history}
        known = run.steps(next(iter(rows[max(rows)]))) if rows else set()
        for epoch, row in rows.items():
            if epoch > first and epoch not in known:
                run.log_metrics(row, step=epoch)

    def _take_history(self, trial: Trial, index: int, history: list[dict[str, float]]) -> str:
        """Add epochs whose report was lost on the way (a killed driver); returns what is wrong, if anything is."""
        first = trial.segments[index - 1].stop_epoch if index else 0
        known = {r.epoch for r in trial.reports}
        for row in history:
            epoch, value = int(row["epoch"]), row.get(self.tune.metric)
            if value is not None and first < epoch and epoch not in known:
                trial.reports.append(Report(epoch=epoch, value=value, seconds=self.seconds))
        trial.reports.sort(key=lambda r: r.epoch)
        self._score(trial)
        if not trial.reports:
            there = ", ".join(sorted(k for k in history[-1] if k != "epoch")) if history else "no epoch was completed"
            return f"tune.metric: {self.tune.metric} was not measured; there are: {there}"
        return ""

    def _score(self, trial: Trial) -> None:
        values = [r.value for r in trial.reports if math.isfinite(r.value)]
        if values:
            best = max if self.tune.mode == "max" else min
            trial.score = values[-1] if self.settings.train.selection == "last" else best(values)
        trial.epoch = trial.reports[-1].epoch if trial.reports else None

    def _write(self, trial: Trial, index: int, state: dict[str, Any] | None) -> None:
        """The trial's model, curves and history, and the end of its run."""
        run = self._runs.pop(trial.number)
        if state is not None and state["selection"]["weights"]:
            folder = Folder(self.trial_uri(trial.number)).create()
            write_result(self.settings_of(trial, index), run, folder, self.faces.image_spec, state)
        if trial.score is not None:
            run.log_metrics({"score": trial.score})
        run.set_tag("facelib.trial_state", trial.state)
        if trial.reason:
            run.set_tag("facelib.error" if trial.state == "failed" else "facelib.reason", trial.reason[:4000])
        run.end(STATUSES[trial.state])
        if trial.kind == "search" and trial.score is not None:
            best = best_first(self.store.of_kind("search"), self.tune.mode)[:1]
            scores = {"score": trial.score, **({"best_score": float(best[0].score or 0)} if best else {})}
            self.run.log_metrics(scores, step=trial.number)
        score = "" if trial.score is None else f", {self.tune.metric} {trial.score:.4f}"
        reason = f" ({trial.reason})" if trial.reason else ""
        values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.parameters.items())
        print(
            f"{_name(trial)} {trial.state}{reason}{score}, {format_seconds(trial.seconds)}: {values or 'as set'}",
            flush=True,
        )

    def _require_hope(self) -> None:
        """Stop a sweep of which every trial fails.

        Raises:
            JobError: with the first reason.
        """
        trials = self._searched()
        failed = [t for t in trials if t.reason and t.state in ("failed", "open")]
        if len(failed) >= min(MAX_INITIAL_FAILURES, self.tune.trials) and not any(t.score is not None for t in trials):
            raise JobError(f"the first {len(failed)} trials failed, none has a score. Trial {failed[0].label}: "
                           f"{failed[0].reason}")  # fmt: skip


def sweep_folder(settings: Settings) -> Folder:
    """Where a sweep's results and trials are."""
    return Folder(settings.path(settings.tune.folder)).create()


def sweep_spec(settings: Settings, faces: TrainingFaces) -> dict[str, Any]:
    """Everything that decides the trials; a folder holds one sweep only. More trials or finalists may be asked for."""
    tune = settings.tune.model_dump(mode="json")
    later = ["folder", "trials", "concurrency", "in_process", "max_failures", "finalists", "finalist_seeds",
             "final_seeds", "final", "heatmap"]  # fmt: skip
    if settings.tune.scheduler == "pbt" or settings.tune.search == "grid":
        later.remove("trials")
    spec = training_spec(settings, faces, settings.tune.method)
    return spec | {f"tune.{name}": value for name, value in tune.items() if name not in later}


def _name(trial: Trial) -> str:
    if trial.kind == "search":
        return f"trial {trial.label}"
    return f"{'repeat' if trial.kind == 'repeat' else 'final training'} of trial {trial.of}, seed {trial.seed}"
