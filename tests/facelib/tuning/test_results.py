"""Results read from a folder, without Ray."""

import subprocess
import sys

import pytest
from support.sweeps import SPACE, sweep_settings, sweep_trials

from facelib.data import DatasetError, Folder
from facelib.data.fingerprint import claim_output_dir
from facelib.tuning.results import load_sweep
from facelib.tuning.trials import TrialStore


@pytest.fixture
def folder(tmp_path):
    """A finished sweep's folder."""
    settings = sweep_settings(tmp_path)
    tune = settings.tune.model_dump(mode="json", exclude={"trials", "finalists"})
    claim_output_dir(Folder(f"{tmp_path}/sweep").create(), {f"tune.{k}": v for k, v in tune.items()} | {"seed": 0})
    store = TrialStore(f"{tmp_path}/sweep/trials")
    for trial in sweep_trials(settings).values():
        for report in trial.reports:
            report.metrics = {"heldout/auc": report.value, "loss": 1.0 / report.epoch}
        trial.run_id = f"run{trial.number}"
        store.save(trial)
    return tmp_path / "sweep"


def test_trials_and_the_best(folder):
    result = load_sweep(str(folder))
    assert len(result) == len(list(result)) == 34
    assert [trial.number for trial in result] == list(range(34))
    assert result[3].number == 3
    repeats = {t.source_trial: [r.score for r in result if r.source_trial == t.source_trial] for t in result[25:]}
    assert result.best.number == max(repeats, key=lambda number: sum(repeats[number]))
    assert result.best.kind == "search"
    assert result.tune.space == SPACE


def test_tables(folder):
    result = load_sweep(str(folder))
    table = result.to_dataframe().set_index("trial")
    assert len(table) == 34
    assert set(SPACE) <= set(table)
    assert table.loc[3, "augment.num_ops"] == result[3].parameters["augment.num_ops"]
    assert table.loc[3, "mlflow_run"] == "run3"
    assert set(table.state) == {"finished", "stopped", "failed"}
    history = result.history()
    assert len(history) == sum(len(trial.reports) for trial in result)
    curve = history[history.trial == 3].set_index("epoch")["heldout/auc"]
    assert curve.to_dict() == {report.epoch: report.value for report in result[3].reports}
    assert {"loss", "seconds"} <= set(history)


def test_reading_changes_nothing_and_loads_no_ray(folder):
    (folder / "trials" / ".0001.json.abc.tmp").write_text("a running sweep writes this")
    code = (
        "import sys\nfrom ray_jobs.tuning import load_sweep\n"
        f"load_sweep({str(folder)!r}).to_dataframe()\nassert 'ray' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (folder / "trials" / ".0001.json.abc.tmp").exists()


def test_other_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="absent"):
        load_sweep(f"{tmp_path}/absent")
    claim_output_dir(Folder(str(tmp_path)), {"seed": 1})
    with pytest.raises(DatasetError, match="is not the folder of a sweep"):
        load_sweep(str(tmp_path))
    assert not (tmp_path / "trials").exists()
