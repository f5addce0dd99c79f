"""A sweep's decisions and records, with simulated trainings: no Ray cluster, only Tune's interfaces."""

import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import yaml
from mlflow import MlflowClient
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from support.datasets import write_dataset
from support.tracking import new_store

from facelib.config import Settings, load_settings
from facelib.data import DatasetError, Folder
from facelib.models import build_backbone
from facelib.tracking import Run
from facelib.tuning.report import winner_of
from facelib.tuning.trials import TrialStore
from ray_jobs.errors import JobError
from ray_jobs.training.checkpoint import keep_checkpoint, newest_checkpoint, read_state, write_state
from ray_jobs.training.plan import STORAGE_NAME
from ray_jobs.tune import write_report
from ray_jobs.tuning.callbacks import SweepCallback, epoch_report
from ray_jobs.tuning.schedulers import SweepScheduler
from ray_jobs.tuning.searchers import SweepSearcher
from ray_jobs.tuning.state import TASK_NAME, Sweep

pytestmark = pytest.mark.slow  # an MLflow run, plots and a checkpoint for every trial

NETWORK = {"name": "iresnet", "embedding_size": 8, "options": {"layers": [1, 1, 1, 1], "width": 0.25}}
SPACE = {"augment.strength": {"uniform": [0.0, 1.0]}, "train.learning_rate": {"loguniform": [0.01, 1.0]}}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Settings that name a tiny dataset and a held-out one."""
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder / "faces", identities=4, images=1, per_part=4)
    write_dataset(folder / "heldout", identities=4, images=2, first=100)
    return {"dataset": f"{folder}/faces", "heldout": f"{folder}/heldout"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One tracking store for all; a new file takes seconds."""
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def settings(tmp_path, faces, store, request):
    """Function: settings of a sweep with other `tune` settings."""

    def build(epochs=4, **tune):
        tree = {
            "output": f"{tmp_path}/out", "data": faces, "model": NETWORK, "train": {"epochs": epochs},
            "tracking": {"uri": store, "experiment": request.node.name, "system_metrics": False},
            "tune": {"space": SPACE, "search": "random", "trials": 4, "scheduler": "none", **tune},
        }  # fmt: skip
        (tmp_path / "tune.yaml").write_text(yaml.safe_dump(tree))
        return load_settings(tmp_path / "tune.yaml")

    return build


@pytest.fixture
def run(settings):
    """The sweep's run."""
    with Run.open(settings(), "tune") as opened:
        yield opened


@functools.cache
def weights():
    """Weights of an untrained network."""
    return build_backbone(NETWORK["name"], embedding_size=8, **NETWORK["options"]).state_dict()


def quality(parameters, seed, epoch):
    return 0.9 - abs(parameters.get("augment.strength", 0.2) - 0.7) / 4 - 0.1 / epoch + 0.001 * seed


class SimulatedTune:
    """Runs the sweep's trials as Tune would; a training only computes its metrics.

    Args:
        fails: numbers of trials that fail.
        dies_after: epochs, over all trials, after which the driver is killed.
    """

    def __init__(self, sweep, kind="search", slots=2, fails=(), dies_after=10**9):
        self.sweep, self.fails, self.left = sweep, fails, dies_after
        self.searcher = SweepSearcher(sweep, kind, slots, None)
        self.scheduler, self.callback = SweepScheduler(sweep), SweepCallback(sweep)
        self.trained = []  # (trial, epoch)
        self.most = 0

    def run(self):
        """Run to the end; False when the driver was killed."""
        running = []
        while True:
            config = self.searcher.suggest("id")
            if isinstance(config, dict):
                task = json.loads(Folder(config["folder"]).read(TASK_NAME))
                running.append((SimpleNamespace(config=config), self.training(config, task)))
                self.most = max(self.most, len(running))
                continue
            if config == Searcher.FINISHED:
                assert not running
                return True
            trial, training = running.pop(0)
            result = next(training, None)
            if self.left <= 0:
                return False
            if result is None or self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                self.callback.on_trial_complete(0, [], trial)
            else:
                running.append((trial, training))

    def training(self, config, task):
        """As a real training: continues from its own last state, else from the state it starts from."""
        settings = Settings.model_validate(task["settings"])
        storage = f"{config['folder']}/{STORAGE_NAME}"
        if config["number"] in self.fails:
            yield {"failure": f"trial {config['number']} diverged"}
            return
        history = []
        for folder in (task["warm_start_from"], storage):
            newest = newest_checkpoint(folder) if folder else None
            history = read_state(folder, newest)["history"] if newest else history
        parameters = {"augment.strength": settings.augment.strength}
        for epoch in range(len(history) + 1, task["stop_epoch"] + 1):
            value = quality(parameters, settings.seed, epoch)
            history.append({"epoch": epoch, "heldout/auc": value})
            self.keep(storage, history)
            self.trained.append((config["number"], epoch))
            self.left -= 1
            yield epoch_report({"epoch": epoch, "logged": {"heldout/auc": value}})

    def keep(self, storage, history):
        """Write a checkpoint like a real training's, with an untrained network."""
        best = max(history, key=lambda h: h["heldout/auc"])
        selection = {"metric": best["heldout/auc"], "epoch": best["epoch"], "weights": weights()}
        scratch = Folder(f"{storage}-scratch").create()
        write_state(Path(scratch.path) / "state.pt", {"selection": selection, "history": history})
        keep_checkpoint(storage, f"checkpoint_{len(history):03d}", Path(scratch.path), keep=2)
        shutil.rmtree(scratch.path)


def children(run):
    client = MlflowClient(tracking_uri=run.uri)
    found = client.search_runs([client.get_run(run.run_id).info.experiment_id])
    return {int(r.data.tags["facelib.trial"]): r for r in found if "facelib.trial" in r.data.tags}


def test_all_trials_are_trained_and_written(settings, run, tmp_path):
    with Sweep(settings(), run) as sweep:
        tune = SimulatedTune(sweep)
        assert tune.run()
        # Tune pickles what it is given.
        assert not hasattr(cloudpickle.loads(cloudpickle.dumps(tune.searcher)), "sweep")
        cloudpickle.dumps([tune.scheduler, tune.callback])
    assert tune.most == 2
    assert sorted(tune.trained) == [(n, e) for n in range(5) for e in (1, 2, 3, 4)]
    trials = sweep.store.trials
    assert trials[0].label == "base"
    assert all(t.state == "finished" and t.score == t.reports[-1].value for t in trials.values())
    runs = children(run).values()
    assert {r.info.status for r in runs} == {"FINISHED"}
    # What MLflow shows when the trials are compared: what differs between them is what was searched.
    differing = {k for r in runs for k, v in r.data.params.items() if any(o.data.params[k] != v for o in runs)}
    assert differing == set(SPACE)
    assert (tmp_path / "out" / "sweep" / "trials" / "0003" / "model.pt").is_file()
    sweep.delete_checkpoints()
    assert not list((tmp_path / "out").rglob("checkpoint_*"))
    assert winner_of(trials, sweep.tune)[0].score == max(t.score for t in trials.values())


def test_mlflow_status_of_stopped_and_failed_trials(settings, run):
    with Sweep(settings(epochs=8, scheduler="asha", reduction=2, trials=8), run) as sweep:
        SimulatedTune(sweep, fails=(3,)).run()
    trials, runs = sweep.store.trials, children(run)
    stopped = {n for n, t in trials.items() if t.state == "stopped"}
    assert stopped
    assert 0 not in stopped  # the base trial
    assert all(len(trials[n].reports) == trials[n].epoch < 8 for n in stopped)
    assert trials[3].state == "failed"
    assert trials[3].reason == "trial 3 diverged"
    expected = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
    assert {n: r.info.status for n, r in runs.items()} == {n: expected[t.state] for n, t in trials.items()}
    assert runs[3].data.tags["facelib.error"] == "trial 3 diverged"
    assert all("asha" in runs[n].data.tags["facelib.reason"] for n in stopped)


def run_until_killed(settings, run, dies_after, slots=2):
    """Run a sweep whose driver is killed after `dies_after` epochs; returns what was trained: [(trial, epoch)]."""
    tune = SimulatedTune(Sweep(settings, run), slots=slots, dies_after=dies_after)
    assert not tune.run()
    for process in tune.sweep.runs._runs.values():
        process.end("FAILED")  # as `Run.open` of the next job does for a killed process
    return tune.trained


@pytest.mark.parametrize(("scheduler", "deaths"), [("none", (1, 5)), ("pbt", (3, 6))])
def test_a_killed_driver_loses_no_epoch_and_repeats_none(settings, run, tmp_path, scheduler, deaths):
    cfg = settings(scheduler=scheduler, search="optuna", startup_trials=2, base=False, interval=2)
    trained = [epoch for dies_after in deaths for epoch in run_until_killed(cfg, run, dies_after)]
    with Sweep(cfg, run) as second:
        rest = SimulatedTune(second)
        assert rest.run()
        write_report(second, *winner_of(second.store.trials, cfg.tune))
    trained += rest.trained
    assert sorted(trained) == [(n, e) for n in range(4) for e in (1, 2, 3, 4)]
    assert len(children(run)) == 4
    assert {r.info.status for r in children(run).values()} == {"FINISHED"}
    assert all([r.epoch for r in t.reports] == [1, 2, 3, 4] for t in second.store.trials.values())
    client = MlflowClient(tracking_uri=run.uri)
    for number, child in children(run).items():  # includes the epoch whose report was lost
        curve = sorted((m.step, m.value) for m in client.get_metric_history(child.info.run_id, "val/heldout/auc"))
        reports = second.store.trials[number].reports
        assert curve == [(r.epoch, pytest.approx(r.value)) for r in reports], number
    # The population is the same as that of an uninterrupted sweep.
    if scheduler == "pbt":
        other = cfg.model_copy(update={"output": f"{tmp_path}/uninterrupted"})
        with Sweep(other, run) as uninterrupted:
            SimulatedTune(uninterrupted).run()
        assert [t.segments for t in uninterrupted.store.trials.values()] == [
            t.segments for t in second.store.trials.values()
        ]


def test_failed_members_of_a_population_continue_from_others(settings, run):
    with Sweep(settings(scheduler="pbt", interval=1, base=False), run) as sweep:
        tune = SimulatedTune(sweep, fails=(2,))
        failing = tune.training

        def once(config, task):
            tune.fails = (2,) if config["segment"] == 1 else ()
            return failing(config, task)

        tune.training = once
        tune.run()
    trial = sweep.store.trials[2]
    assert trial.state == "finished"
    assert trial.segments[2].warm_start_from[0] != 2
    assert [r.epoch for r in trial.reports] == [1, 3, 4]


def test_a_population_extended_halfway_is_completed_with_the_same_segments(settings, run):
    cfg = settings(scheduler="pbt", interval=2, base=False)
    with Sweep(cfg, run) as sweep:
        SimulatedTune(sweep).run()
        expected = {n: list(t.segments) for n, t in sweep.store.trials.items()}
        for trial in sweep.store.trials.values():  # killed after the first member got its second segment
            trial.state, trial.segments = "open", expected[trial.number][: 2 if trial.number == 0 else 1]
        sweep._extend_population()
    for number, trial in sweep.store.trials.items():
        for segment, other in zip(trial.segments, expected[number], strict=True):
            assert segment.model_dump(exclude={"done"}) == other.model_dump(exclude={"done"})


def test_repeats_and_final_trainings(settings, run, tmp_path):
    cfg = settings(finalists=2, final={"train.epochs": 6})
    with Sweep(cfg, run) as sweep:
        SimulatedTune(sweep).run()
        best = winner_of(sweep.store.trials, cfg.tune)[0]
        for seed in (1, 2):
            sweep.add("repeat", best, seed)
            sweep.add("repeat", best, seed)
        SimulatedTune(sweep, "repeat").run()
        sweep.add("final", best, 3)
        SimulatedTune(sweep, "final").run()
        winner, comparison = winner_of(sweep.store.trials, cfg.tune)
        write_report(sweep, winner, comparison)
    repeats = sweep.store.of_kind("repeat")
    assert [(t.source_trial, t.seed, t.parameters) for t in repeats] == [
        (best.number, s, best.parameters) for s in (1, 2)
    ]
    [final] = sweep.store.of_kind("final")
    assert (final.epoch, final.seed, final.state) == (6, 3, "finished")
    assert comparison.finalists[best.number].mean == pytest.approx(best.score + 0.0015)
    task = load_settings(tmp_path / "out" / "sweep" / "best.yaml")
    assert (task.train.epochs, task.augment.strength) == (6, best.parameters.get("augment.strength", 1.0))


def test_a_sweep_whose_first_trials_fail_ends_with_the_reason(settings, run):
    with Sweep(settings(base=False), run) as sweep, pytest.raises(JobError, match="Trial 0: trial 0 diverged"):
        SimulatedTune(sweep, fails=range(9)).run()


def test_the_folder_of_another_sweep_is_rejected_but_more_trials_can_be_added(settings, run):
    with Sweep(settings(trials=2), run) as sweep:
        SimulatedTune(sweep).run()
    with pytest.raises(DatasetError, match=r"tune\.scheduler: 'none', now 'asha'"):
        Sweep(settings(trials=2, scheduler="asha"), run)
    with Sweep(settings(trials=3), run) as sweep:
        tune = SimulatedTune(sweep)
        tune.run()
    assert {n for n, _ in tune.trained} == {3}


def test_a_metric_that_is_not_measured_is_named(settings, run):
    reason = r"tune\.metric: lfw/auc was not measured; available: heldout/auc"
    with Sweep(settings(metric="lfw/auc", trials=1, base=False), run) as sweep, pytest.raises(JobError, match=reason):
        SimulatedTune(sweep).run()
    assert sweep.store.trials[0].state == "failed"


def test_an_epoch_without_the_metric_is_logged_but_not_reported(settings, run):
    with Sweep(settings(trials=1, base=False), run) as sweep:
        number, _ = sweep.next_segment("search")
        trial = SimpleNamespace(config={"number": number})
        result = SweepScheduler(sweep).on_trial_result(None, trial, epoch_report({"epoch": 1, "logged": {"loss": 2.0}}))
        assert result == TrialScheduler.CONTINUE
        assert sweep.store.trials[number].reports == []
    found = MlflowClient(tracking_uri=run.uri).get_metric_history(children(run)[number].info.run_id, "train/loss")
    assert [(m.step, m.value) for m in found] == [(1, 2.0)]


def test_a_killed_driver_stops_the_same_trials(settings, run, tmp_path):
    """Also where it was killed between the report that stops a trial and the stop, and before a report."""
    cfg = settings(epochs=8, scheduler="asha", reduction=2, trials=6, base=False)
    with Sweep(cfg.model_copy(update={"output": f"{tmp_path}/whole"}), run) as whole:
        SimulatedTune(whole, slots=1).run()
    trained = [epoch for dies_after in (2, 3, 3, 3) for epoch in run_until_killed(cfg, run, dies_after, slots=1)]
    with Sweep(cfg, run) as second:
        rest = SimulatedTune(second, slots=1)
        rest.run()
    trained += rest.trained
    ends = [{n: (t.state, t.epoch, t.reason) for n, t in s.store.trials.items()} for s in (whole, second)]
    assert ends[0] == ends[1]
    assert {state for state, *_ in ends[0].values()} == {"finished", "stopped"}
    assert len(set(trained)) == len(trained)  # no epoch twice


def test_a_trial_that_was_stopped_when_the_driver_died_is_not_trained_further(settings, run):
    cfg = settings(epochs=8, scheduler="asha", reduction=2, trials=6, base=False)
    sweep = Sweep(cfg, run)
    tune = SimulatedTune(sweep, slots=1)
    ending = sweep.end_segment

    def killed(number, *rest):
        if number in sweep.stopping:
            raise InterruptedError
        ending(number, *rest)

    sweep.end_segment = killed
    with pytest.raises(InterruptedError):
        tune.run()
    [number] = sweep.stopping
    sweep.runs._runs[number].end("FAILED")
    with Sweep(cfg, run) as second:
        rest = SimulatedTune(second, slots=1)
        rest.run()
    assert number not in {n for n, _ in rest.trained}
    trial = second.store.trials[number]
    assert (trial.state, trial.reason) == ("stopped", f"stopped by asha after epoch {trial.epoch}")
    assert children(run)[number].info.status == "KILLED"


def test_nan_is_kept_and_stops_no_other_trial(settings, run):
    cfg = settings(epochs=2, scheduler="asha", reduction=2, trials=3, base=False)
    with Sweep(cfg, run) as sweep:
        number, _ = sweep.next_segment("search")
        assert not sweep.report(number, 1, {"heldout/auc": math.nan, "loss": 2.0})
        other, _ = sweep.next_segment("search")
        assert not sweep.report(other, 1, {"heldout/auc": 0.5})
        again = TrialStore(sweep.store.folder.uri).trials[number]
        assert math.isnan(again.reports[0].value)
        assert again.reports[0].metrics["loss"] == 2.0
        assert again.score is None


def test_tune_stop_ends_a_trial_as_finished(settings, run):
    stop = {"heldout/auc": 0.85, "epoch": 6}
    with Sweep(settings(epochs=8, trials=6, stop=stop), run) as sweep:
        SimulatedTune(sweep).run()
    trials = sweep.store.trials
    assert (trials[0].epoch, trials[0].reason) == (8, "")  # the settings as they are
    for number in range(1, 7):
        trial = trials[number]
        assert trial.state == "finished"
        assert trial.score >= 0.85 or trial.epoch == 6
        assert all(report.value < 0.85 for report in trial.reports[:-1])
        assert trial.reason.startswith("tune.stop: reached ")
    assert {t.epoch for t in trials.values()} > {6, 8}


def test_a_spent_budget_starts_nothing_more_and_a_larger_one_continues(settings, run, monkeypatch):
    cfg = settings(epochs=4, trials=4, time_budget=10.0)
    clock = iter(range(10_000))
    monkeypatch.setattr("ray_jobs.tuning.state.time.monotonic", lambda: next(clock) / 2)
    with Sweep(cfg, run) as sweep:
        SimulatedTune(sweep).run()
    trials = sweep.store.trials
    assert trials[0].state == "finished"  # the base trial is a reference
    assert len(trials) < 5
    cut = [t for t in trials.values() if t.state == "stopped"]
    assert cut
    assert all("tune.time_budget: 10 s were over" in t.reason for t in cut)
    with Sweep(cfg, run) as again:
        tune = SimulatedTune(again)
        tune.run()
    assert tune.trained == []
    left = 4 - sum(t.state != "open" for t in again.store.proposed())
    assert f"ended after 10 s: {left} of 4 trials were not trained and {len(cut)} were stopped" in again.left_out()
    with Sweep(settings(epochs=4, trials=4, time_budget=1e6), run) as more:
        SimulatedTune(more).run()
    assert more.left_out() == ""
    assert sorted(more.store.trials) == [0, 1, 2, 3, 4]


def test_a_searcher_of_the_users_survives_a_kill(settings, run, tmp_path):
    cfg = settings(search={"class": "own_tuning:HillClimb"}, trials=5, epochs=2)
    with Sweep(cfg.model_copy(update={"output": f"{tmp_path}/whole"}), run) as whole:
        SimulatedTune(whole, slots=1).run()
    for dies_after in (3, 4):
        run_until_killed(cfg, run, dies_after, slots=1)
    with Sweep(cfg, run) as last:
        SimulatedTune(last, slots=1).run()
    assert [t.parameters for t in last.store.trials.values()] == [t.parameters for t in whole.store.trials.values()]
    assert {t.state for t in last.store.trials.values()} == {"finished"}
    assert last.searcher.searcher.told == whole.searcher.searcher.told
    with Sweep(settings(search={"class": "own_tuning:HillClimb"}, trials=7, epochs=2), run) as more:
        tune = SimulatedTune(more)
        tune.run()
    assert {n for n, _ in tune.trained} == {6, 7}
