"""What is shown and logged of a finished dataset."""

from mlflow import MlflowClient
from support.datasets import write_dataset

from ray_jobs.datasets.dataset_report import dataset_metrics, report_dataset


def test_counts_metrics_and_contact_sheet(tmp_path, run, capsys):
    folder = write_dataset(tmp_path / "faces", identities=12, images=2).folder
    dataset = report_dataset(folder, "faces", run)
    assert "faces: 12 identities, 24 faces (100.00% of the images)" in capsys.readouterr().out
    assert dataset_metrics(dataset) == {"faces/requested": 24, "faces/aligned": 24}
    assert (tmp_path / "faces" / "contact_sheet.png").stat().st_size > 10_000
    client = MlflowClient(run.uri)
    assert client.get_run(run.run_id).data.metrics["faces/aligned"] == 24
    assert "faces/manifest.json" in {f.path for f in client.list_artifacts(run.run_id, "faces")}
