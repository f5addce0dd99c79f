"""What is shown and logged of a finished dataset."""

import json

from mlflow import MlflowClient
from support.datasets import write_dataset

from facelib.config import load_settings
from facelib.evaluation.protocols import parse_spec
from ray_jobs.datasets.dataset_report import dataset_metrics, log_set, log_training_sets, report_dataset


def test_counts_metrics_and_contact_sheet(tmp_path, run, capsys):
    folder = write_dataset(tmp_path / "faces", identities=12, images=2).folder
    dataset = report_dataset(folder, "faces", run)
    assert "faces: 12 identities, 24 faces (100.00% of the images)" in capsys.readouterr().out
    assert dataset_metrics(dataset) == {"faces/requested": 24, "faces/aligned": 24}
    assert (tmp_path / "faces" / "contact_sheet.png").stat().st_size > 10_000
    client = MlflowClient(run.uri)
    assert client.get_run(run.run_id).data.metrics["faces/aligned"] == 24
    assert "faces/manifest.json" in {f.path for f in client.list_artifacts(run.run_id, "faces")}


def test_what_a_training_reads_is_logged_with_role_and_counts(tmp_path, run):
    write_dataset(tmp_path / "faces", identities=12, images=2)
    write_dataset(tmp_path / "heldout", identities=4, images=3, first=1000)
    (tmp_path / "lfw.bin").write_bytes(b"pairs")
    settings = load_settings(None, [f"output={tmp_path}", f'train.sets=["lfw={tmp_path}/lfw.bin"]'])
    log_training_sets(settings, run)
    found = {i.dataset.name: i for i in MlflowClient(run.uri).get_run(run.run_id).inputs.dataset_inputs}
    roles = {name: i.tags[0].value for name, i in found.items()}
    assert roles == {"faces": "train", "heldout": "validation", "lfw": "validation"}
    assert json.loads(found["faces"].dataset.profile) == {"images": 24, "identities": 12}
    assert json.loads(found["heldout"].dataset.source) == {"uri": f"{tmp_path}/heldout"}
    log_set(run, parse_spec(f"heldout={tmp_path}/heldout"), "validation")  # the same dataset, as a set
    (tmp_path / "lfw.bin").write_bytes(b"other pairs")
    log_training_sets(settings, run)
    digests = [i.dataset.digest for i in MlflowClient(run.uri).get_run(run.run_id).inputs.dataset_inputs]
    assert len(digests) == len(set(digests)) == 4  # only the set that changed is new
