"""Sweeps on a Ray cluster: search, early stopping, failures, killed and continued sweeps."""

import json
import os
import signal
import threading
import time

import optuna
import psutil
import pytest
import ray
import yaml
from mlflow import MlflowClient
from ray.tune import ExperimentAnalysis
from support.commands import start, wait_for
from support.docs import blocks
from support.tiny_sweep import config, sweep, trials, write_faces

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError
from facelib.models import read_checkpoint
from facelib.tracking import Run
from ray_jobs import train_ssl as train_ssl_job
from ray_jobs import tune as tune_job
from ray_jobs.errors import JobError
from ray_jobs.train_ssl import train_ssl
from ray_jobs.tuning.state import Sweep


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Settings that name a training dataset of 32 identities and a held-out one."""
    return write_faces(tmp_path_factory.mktemp("data"))


def runs(folder):
    """(sweeps, children by trial number) in MLflow."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("facelib").experiment_id])
    parents = {r.info.run_id: r for r in found if r.data.tags["facelib.job"] == "tune"}
    children = [r for r in found if r.data.tags["facelib.job"] == "trial"]
    assert all(c.data.tags["mlflow.parentRunId"] in parents for c in children)
    by_number = {int(c.data.tags["facelib.trial"]): c for c in children}
    assert len(by_number) == len(children)  # no duplicates
    return list(parents.values()), by_number


def trial_processes():
    """Trial processes started by this test."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or [""]
        if line[0].startswith(("ray::train_segment", "ray::ImplicitFunc")) and process.pid in ours():
            found.append(process)
    return found


def ours():
    return {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, faces, ray_cluster):
    """(folder, result, trials, runs) of a sweep with a trial that diverges, repeats, and a final training."""
    folder = tmp_path_factory.mktemp("finished")
    space = {
        "ssl.queue_size": {"grid": [16, 32]},
        "train.learning_rate": {"grid": [0.1, 1.0e12]},
    }
    # One at a time: while a trial takes less than the start of a process, Tune would start and end one for each.
    more = {"space": space, "search": "grid", "scheduler": "none", "trials": 4, "finalists": 1, "finalist_seeds": 3,
            "concurrency": 1,
            "final_seeds": 1, "final": {"train.epochs": 2}, "export_optuna": "study.db",
            "callbacks": [{"class": "own_tuning:CountResults", "options": {"path": f"{folder}/results"}}]}  # fmt: skip
    result = sweep(config(folder, faces, **more))
    return folder, result, trials(folder), runs(folder)  # as they were before other tests went on with the sweep


@pytest.mark.slow
def test_a_sweep_writes_a_report_plots_and_settings_that_train(finished, in_process):
    folder, result, *_ = finished
    out = folder / "out" / "sweep"
    assert result.written == (f"{out}/report.md", f"{out}/best.yaml")
    report = (out / "report.md").read_text()
    assert "over 3 new seeds" in report
    assert "Lower train.learning_rate" in report
    for plot in ("history", "parallel", "heatmap", "finalists"):
        assert (out / f"{plot}.png").stat().st_size > 5_000
    best = load_settings(out / "best.yaml")
    winner = json.loads((out / "results.json").read_text())["parameters"]
    assert best.train.epochs == 2
    assert best.ssl.queue_size == winner.get("ssl.queue_size", 24)
    train_ssl_job.validate(best)
    with Run.open(best, "train_ssl") as opened:
        train_ssl(best, opened)
    assert read_checkpoint(folder / "out" / "sweep" / "best" / "ssl" / "model.pt").image_spec["template"] == "arcface"


@pytest.mark.slow
def test_every_trial_is_a_run_with_its_own_end(finished):
    folder, _, known, ([parent], children) = finished
    assert parent.info.status == "FINISHED"
    assert set(children) == set(known)
    assert {t.kind for t in known.values()} == {"search", "repeat", "final"}
    assert [t.label for t in known.values() if t.kind == "search"] == ["base", "1", "2", "3", "4"]
    for number, trial in known.items():
        child = children[number]
        assert child.info.status == {"finished": "FINISHED", "failed": "FAILED"}[trial.state]
        diverges = trial.parameters.get("train.learning_rate") == 1e12
        assert trial.state == ("failed" if diverges else "finished")
        if diverges:
            assert "Lower train.learning_rate" in child.data.tags["facelib.error"]
            continue
        epochs = 2 if trial.kind == "final" else 3
        assert [r.epoch for r in trial.reports] == list(range(1, epochs + 1))
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        curve = client.get_metric_history(child.info.run_id, "val/heldout/auc")
        assert [(m.step, m.value) for m in curve] == [(r.epoch, pytest.approx(r.value)) for r in trial.reports]
        assert child.data.metrics["score"] == pytest.approx(trial.score)
        history = json.loads((folder / f"out/sweep/trials/{number:04d}/history.json").read_text())
        assert set(history[0]) - {"epoch"} == set(trial.reports[0].metrics)  # nothing of Tune's
        assert "history.json" in {a.path for a in client.list_artifacts(child.info.run_id)}
        assert len(child.outputs.model_outputs) == 1
        assert child.data.params["ssl.queue_size"] == str(trial.parameters.get("ssl.queue_size", 24))
        assert "tune.trials" not in child.data.params
        assert (folder / "out" / "sweep" / "trials" / f"{number:04d}" / "model.pt").is_file()
    assert not list((folder / "out" / "sweep" / "trials").rglob("checkpoint_*"))
    seeds = {t.seed for t in known.values() if t.kind == "repeat"}
    assert seeds == {1, 2, 3}
    assert {t.seed for t in known.values() if t.kind == "final"} == {4}


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_twice_and_more_can_be_asked_for(finished):
    folder, *_ = finished
    before = {n: t.model_dump() for n, t in trials(folder).items()}
    sweep(folder / "tune.yaml", "tune.final_seeds=2")
    after = trials(folder)
    assert {n: after[n].model_dump() for n in before} == before
    assert len(after) == len(before) + 1
    with pytest.raises(DatasetError, match=r"train\.epochs: 3, now 4"):
        sweep(folder / "tune.yaml", "train.epochs=4")


@pytest.mark.slow
def test_tunes_own_tools_read_the_experiment(finished):
    folder, *_ = finished
    known = trials(folder)
    experiments = {path.name[len("2030-01-02_03-04-05") :]: path for path in (folder / "out/sweep/tune").iterdir()}
    assert {"", "_repeat", "_final"} <= set(experiments)
    analysis = ExperimentAnalysis(str(experiments[""]))
    table = analysis.dataframe().set_index("config/number")
    search = {number: trial for number, trial in known.items() if trial.kind == "search"}
    assert set(table.index) == set(search)
    for number, trial in search.items():
        if trial.state == "finished":
            assert table.loc[number, "heldout/auc"] == pytest.approx(trial.reports[-1].value)
            assert (
                not trial.parameters or table.loc[number, "config/ssl.queue_size"] == trial.parameters["ssl.queue_size"]
            )
    for frame in analysis.trial_dataframes.values():
        trial = search[frame["config/number"].iloc[0]]
        if trial.state == "finished":
            assert frame["epoch"].dropna().tolist() == [1, 2, 3]
            assert frame["heldout/auc"].tolist() == pytest.approx([r.value for r in trial.reports])
    for number in search:
        files = {path.name.partition(".")[0] for path in (experiments[""] / f"{number:04d}").iterdir()}
        assert {"events", "progress", "result"} <= files
    assert sum(path.stat().st_size for path in (folder / "out/sweep/tune").rglob("*") if path.is_file()) < 3_000_000
    lines = (folder / "results").read_text().splitlines()  # a callback of the user's
    epochs = [f"{number} {report.epoch}" for number, trial in known.items() for report in trial.reports]
    assert set(epochs) <= set(lines)


@pytest.mark.slow
def test_the_search_is_exported_for_optunas_dashboard(finished):
    folder, *_ = finished
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/out/study.db")
    assert [t.state.name for t in study.trials].count("FAIL") == 2
    assert study.best_value == max(t.score for t in trials(folder).values() if t.kind == "search" and t.score)


@pytest.mark.slow
def test_from_python_as_in_the_docs(faces, tmp_path, ray_cluster, monkeypatch):
    """Also a sweep without repeats and without the base trial, and one more trial than before."""
    path = config(tmp_path, faces, finalists=0, base=False, search="random", scheduler="none", concurrency=2)
    [example] = [block for block in blocks("tuning.md", "python") if "import load_sweep, sweep" in block]
    example = example.replace("tune_ssl", str(path)).replace("runs/tune/sweep_ssl", f"{tmp_path}/out/sweep")
    example = example.replace("tune.trials=8", 'tune.trials=3", "train.epochs=1')
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "docs/tuning.md", "exec"), names)
    assert [t.state for t in names["result"]] == ["finished"] * 3
    assert names["again"].best == names["result"].best
    assert (tmp_path / "trials.csv").read_text().count("\n") == 4
    assert "Best: trial" in (tmp_path / "out/sweep/report.md").read_text()
    before = {t.number: t for t in names["result"]}
    more = names["sweep"](load_settings(path, ["tune.trials=4", "train.epochs=1"]))
    assert [t.number for t in more] == list(range(4))
    assert all(more[number] == trial for number, trial in before.items())


@pytest.mark.faults
def test_classes_of_the_docs_survive_a_kill(faces, tmp_path, ray_cluster, monkeypatch):
    """The user's file of the docs as it is, found through PYTHONPATH alone."""
    [classes] = [block for block in blocks("tuning.md", "python") if "class Mutate(Searcher)" in block]
    (tmp_path / "my_tuning.py").write_text(classes)
    [settings] = [yaml.safe_load(b)["tune"] for b in blocks("tuning.md", "yaml") if "my_tuning:Mutate" in b]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    path = config(tmp_path, faces, **settings, trials=6, concurrency=1)
    driver = start("tune", "--config", path, "--ray.address", ray.get_runtime_context().gcs_address, folder=tmp_path)

    def halfway():
        assert driver.poll() is None, (tmp_path / "tune.log").read_text()
        found = trials(tmp_path) if (tmp_path / "out/sweep/trials").is_dir() else {}
        return sum(t.state in ("finished", "stopped") for t in found.values()) >= 3

    wait_for(halfway, what="three trials")
    driver.kill()
    driver.wait()
    wait_for(lambda: not trial_processes(), what="the end of the driver's trials")
    before = trials(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sweep(path)
    after = trials(tmp_path)
    assert sorted(after) == list(range(7))
    assert {t.state for t in after.values()} <= {"finished", "stopped"}
    assert all(after[n].parameters == trial.parameters for n, trial in before.items())
    assert all([r.epoch for r in t.reports] == list(range(1, t.epoch + 1)) for t in after.values())
    assert len({repr(t.parameters) for t in after.values()}) == 7


@pytest.mark.faults
def test_a_killed_driver_stops_the_same_trials(faces, tmp_path, ray_cluster):
    """ASHA over real trainings, one at a time: with and without a kill."""
    more = {"search": "random", "trials": 6, "reduction": 2, "base": False, "concurrency": 1}
    (tmp_path / "whole").mkdir()
    sweep(config(tmp_path / "whole", faces, **more))
    whole = trials(tmp_path / "whole")
    path = config(tmp_path, faces, **more)
    for reports in (4, 8):
        driver = start("tune", "--config", path, "--ray.address", ray.get_runtime_context().gcs_address,
                       folder=tmp_path)  # fmt: skip

        def there(driver=driver, reports=reports):
            assert driver.poll() is None, (tmp_path / "tune.log").read_text()
            found = trials(tmp_path) if (tmp_path / "out/sweep/trials").is_dir() else {}
            return sum(len(t.reports) for t in found.values()) >= reports

        wait_for(there, what=f"{reports} reports")
        driver.kill()
        driver.wait()
        wait_for(lambda: not trial_processes(), what="the end of the driver's trials")
    sweep(path)
    ends = [{n: (t.state, t.epoch) for n, t in known.items()} for known in (whole, trials(tmp_path))]
    assert ends[0] == ends[1]
    assert {state for state, _ in ends[0].values()} == {"finished", "stopped"}


@pytest.mark.faults
def test_a_busy_driver_loses_no_report(faces, tmp_path, ray_cluster, monkeypatch):
    """Three seconds for every report: the worker group has ended when the first one has been handled."""
    handle = Sweep.report

    def slowly(self, *arguments):
        time.sleep(3)
        return handle(self, *arguments)

    monkeypatch.setattr(Sweep, "report", slowly)
    path = config(tmp_path, faces, in_process=False, trials=1, base=False, scheduler="none", search="random")
    sweep(path, "data.cpus_per_reader=0.1")
    [trial] = trials(tmp_path).values()
    assert (trial.state, [r.epoch for r in trial.reports]) == ("finished", [1, 2, 3])


@pytest.mark.faults
def test_a_killed_sweep_is_continued_and_no_trial_is_lost_or_run_twice(faces, tmp_path, ray_cluster):
    path = config(tmp_path, faces, search="optuna", trials=5, scheduler="none", concurrency=2)
    address = ray.get_runtime_context().gcs_address
    driver = start("tune", "--config", path, "--ray.address", address, folder=tmp_path)

    def halfway():
        found = trials(tmp_path) if (tmp_path / "out" / "sweep" / "trials").is_dir() else {}
        assert driver.poll() is None, (tmp_path / "tune.log").read_text()
        ended = [t for t in found.values() if t.state == "finished"]
        return ended and [t for t in found.values() if t.state == "open" and t.reports]

    wait_for(halfway, what="a finished trial and one in the middle")
    driver.kill()
    driver.wait()
    wait_for(lambda: not trial_processes(), what="the end of the driver's trials")
    before = trials(tmp_path)
    sweep(path)
    after = trials(tmp_path)
    assert sorted(after) == [0, 1, 2, 3, 4, 5]
    for number, old in before.items():
        new = after[number]
        assert new.parameters == old.parameters
        assert new.run_id == old.run_id or not old.run_id
        assert new.reports[: len(old.reports)] == old.reports
        if old.state == "finished":
            assert new == old
    assert all([r.epoch for r in t.reports] == [1, 2, 3] for t in after.values())
    assert all(t.state == "finished" for t in after.values())
    [parent], children = runs(tmp_path)
    assert {c.info.status for c in [parent, *children.values()]} == {"FINISHED"}
    assert sorted(children) == [0, 1, 2, 3, 4, 5]


@pytest.mark.faults
def test_a_killed_trial_is_started_again_and_early_stopping_ends_runs_as_killed(faces, tmp_path, ray_cluster):
    path = config(tmp_path, faces, search="random", trials=6, reduction=2, base=False, concurrency=1)
    folder = tmp_path / "out" / "sweep" / "trials"
    killed = []

    def kill_a_trial():
        wait_for(lambda: trial_processes() and list(folder.rglob("state.pt")), what="a trial with a checkpoint")
        for process in trial_processes():
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    killer = threading.Thread(target=kill_a_trial)
    killer.start()
    sweep(path)
    killer.join()
    assert killed
    known = trials(tmp_path)
    assert len(known) == 6
    assert {t.state for t in known.values()} == {"finished", "stopped"}
    _, children = runs(tmp_path)
    for number, trial in known.items():
        stopped = trial.state == "stopped"
        assert children[number].info.status == ("KILLED" if stopped else "FINISHED")
        assert len(trial.reports) == (trial.epoch if stopped else 3)
        assert ("facelib.reason" in children[number].data.tags) == stopped
        assert (folder / f"{number:04d}" / "model.pt").is_file()


@pytest.mark.faults
def test_a_population_learns_a_schedule(faces, tmp_path, ray_cluster):
    space = {
        "augment.strength": {"uniform": [0.0, 1.0]},
        "train.learning_rate": {"loguniform": [0.01, 1.0]},
        "ssl.queue_size": {"grid": [16, 24, 32]},
    }
    more = {"scheduler": "pbt", "trials": 4, "space": space, "base": False, "finalist_seeds": 3}
    sweep(config(tmp_path, faces, **more), "train.epochs=2")
    known = trials(tmp_path)
    members = [t for t in known.values() if t.kind == "search"]
    assert len(members) == 4
    assert all([s.stop_epoch for s in t.segments] == [1, 2] and t.state == "finished" for t in members)
    [copied] = [t for t in members if t.segments[1].warm_start_from[0] != t.number]
    assert copied.segments[1].parameters != copied.segments[0].parameters
    repeats = [t for t in known.values() if t.kind == "repeat"]
    assert len(repeats) == 3
    assert all([s.stop_epoch for s in t.segments] == [1, 2] for t in repeats)
    assert all([r.epoch for r in t.reports] == [1, 2] for t in known.values())
    assert "## Schedule of the winner" in (tmp_path / "out" / "sweep" / "report.md").read_text()
    assert (tmp_path / "out" / "sweep" / "schedules.png").is_file()
    assert {c.info.status for c in runs(tmp_path)[1].values()} == {"FINISHED"}


@pytest.mark.faults
def test_trials_of_two_workers_do_not_wait_for_each_other(faces, tmp_path, ray_cluster):
    """Two trials of two DDP workers each on two CPUs: without CPUs for the readers this would hang."""
    path = config(tmp_path, faces, in_process=False, trials=2, base=False)
    sweep(path, "train.workers=2", "train.cpus_per_worker=0.3", "data.cpus_per_reader=0.1")
    assert len(trials(tmp_path)) == 2
    assert {t.state for t in trials(tmp_path).values()} <= {"finished", "stopped"}
    assert {c.info.status for c in runs(tmp_path)[1].values()} <= {"FINISHED", "KILLED"}


def test_trials_that_cannot_fit_are_refused(faces, tmp_path, ray_cluster):
    path = config(tmp_path, faces)
    with pytest.raises(JobError, match=r"no trial fits on the cluster: train\.workers=1 of 5000 CPU each"):
        sweep(path, "train.cpus_per_worker=5000")
    with pytest.raises(JobError, match=r"tune\.concurrency: 5000 trials at a time, but only \d+ fit"):
        sweep(path, "tune.concurrency=5000")
    assert trials(tmp_path) == {}


@pytest.mark.slow
def test_a_sweep_of_which_every_trial_fails_ends_with_the_reason(faces, tmp_path, ray_cluster):
    space = {"train.weight_decay": {"uniform": [0, 1e-3]}}
    path = config(tmp_path, faces, space=space, trials=9, base=False, concurrency=1)
    with pytest.raises(JobError, match=r"the first 3 trials failed.*Trial 0: .*Lower train\.learning_rate"):
        sweep(path, "train.learning_rate=1e12")
    [parent], children = runs(tmp_path)
    assert parent.info.status == "FAILED"
    assert {c.info.status for c in children.values()} == {"FAILED"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"ssl.quue_size": {"grid": [16]}}, r"ssl\.quue_size: unknown setting \(did you mean ssl\.queue_size\?\)"),
        ({"ssl.queue_size": {"grid": [4, 16]}}, r"ssl\.queue_size=4.*4 keys cannot hold one global batch of 8"),
        ({"augment.magnitude": {"uniform": [0, 99]}}, r"augment\.magnitude=99.*less than or equal to 30"),
        ({"augment.options.blurr": {"grid": [0.1, 0.2]}}, r"augment\.options"),
        ({"unpg.wisk": {"grid": [1, 2]}}, r"no effect on tune\.method=ssl"),
        ({}, r"tune\.space: empty"),
    ],
)
def test_a_space_is_checked_before_anything_starts(tmp_path, space, message):
    with pytest.raises(SettingsError, match=message):
        tune_job.validate(load_settings(config(tmp_path, {}, space=space)))
    tune_job.validate(load_settings(config(tmp_path, {})), {f"{tmp_path}/out"})
