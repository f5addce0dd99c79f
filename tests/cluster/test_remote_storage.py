"""Datasets, locks, plans and checkpoints on S3, spoken to by its protocol; and connections that break."""

import json

import pytest
import torch
from mlflow import MlflowClient
from support.datasets import pattern, write_dataset
from support.storage import Cable, environment, keys
from support.tracking_server import TrackingServer
from werkzeug.serving import WSGIRequestHandler

from facelib.config import load_settings
from facelib.data import DatasetError, FaceDataset, Folder, StorageError, encode_image, write_part
from facelib.data import lock as locks
from facelib.data.fingerprint import claim_output_dir
from facelib.data.lock import LOCK_NAME, FolderInUseError, directory_lock
from facelib.models import build_backbone, load_backbone, save_backbone
from facelib.sources import write_bin
from facelib.sources.pair_sets import load_pair_set
from facelib.tracking import Run
from ray_jobs.training.checkpoint import newest_checkpoint, read_state, write_state


def test_a_dataset_on_s3_is_a_dataset(s3, through):
    dataset = write_dataset("s3://faces/set", identities=8, images=2)
    dataset.verify()
    again = FaceDataset("s3://faces/set")
    again.check_parts()
    assert sum(len(table) for table in again.tables(["identity"])) == 16
    part, index, _, rows = again.row_groups()[1]
    assert len(again.read_row_groups(part, [index], ["image"])) == rows
    assert keys(s3, "set/") == ["set/manifest.json", "set/part-0000000.parquet", "set/spec.json"]


def test_a_part_takes_four_requests_at_most(through):
    """An upload of one piece; the content is not read back, copied or renamed."""
    table = FaceDataset(write_dataset("s3://faces/counted", identities=4, images=2).folder.uri).read_row_groups(
        "part-0000000.parquet", [0]
    )
    folder = Folder("s3://faces/counted")
    writes = client_requests(lambda: write_part(folder, "part-0000001.parquet", table, len(table), {}, "x"))
    assert 1 <= len(writes) <= 4, writes


def client_requests(call):
    """First lines of the requests that `call` sends to the server."""
    lines = []
    original = WSGIRequestHandler.log_request
    WSGIRequestHandler.log_request = lambda self, *_: lines.append(self.requestline)
    try:
        call()
    finally:
        WSGIRequestHandler.log_request = original
    return lines


def test_what_is_not_there_is_said_in_one_line(through):
    with pytest.raises(DatasetError, match="s3://faces/nothing is no face dataset"):
        FaceDataset("s3://faces/nothing")
    assert Folder("s3://faces/nothing").names() == []


def test_a_plan_on_s3_keeps_others_out(through):
    folder = Folder("s3://faces/planned").create()
    claim_output_dir(folder, {"seed": 1})
    claim_output_dir(folder, {"seed": 1})
    with pytest.raises(DatasetError, match="seed: 1, now 2"):
        claim_output_dir(folder, {"seed": 2})


def test_one_job_at_a_time_on_s3(s3, through, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.2)
    folder = Folder("s3://faces/held").create()
    with directory_lock(folder, "generate"):
        assert json.loads(folder.read(LOCK_NAME))["job"] == "generate"
        with pytest.raises(FolderInUseError, match="in use by generate"), directory_lock(folder, "train_ssl"):
            pass
    assert "held/.lock" not in keys(s3)


def test_checkpoints_on_s3(through, tmp_path):
    names = ["checkpoint_2026-01-01_00-00-00.000000", "checkpoint_2026-01-02_00-00-00.000000"]
    for value, name in enumerate(names):
        write_state(tmp_path / "state.pt", {"weights": torch.full((1000,), float(value))})
        data = (tmp_path / "state.pt").read_bytes()
        # The second was cut off by a crash.
        Folder(f"s3://faces/training/{name}").create().write("state.pt", data if value == 0 else data[:-100])
    assert newest_checkpoint("s3://faces/training") == names[0]
    assert read_state("s3://faces/training", names[0])["weights"].sum() == 0


def test_models_and_verification_sets_are_read_from_s3(through, tmp_path):
    settings = {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2, "embedding_size": 16}
    backbone = build_backbone("iresnet", **settings)
    save_backbone(tmp_path / "model.pt", backbone, "iresnet", settings, {"template": "arcface"})
    write_bin(tmp_path / "set.bin", [encode_image(pattern(i, 0)) for i in range(4)], [True, False])
    folder = Folder("s3://faces/models").create()
    for name in ("model.pt", "set.bin"):
        folder.write(name, (tmp_path / name).read_bytes())
    folder.write("broken.pt", b"no model")
    loaded = load_backbone("s3://faces/models/model.pt").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())
    assert load_pair_set("s3://faces/models/set.bin").issame.tolist() == [True, False]
    with pytest.raises(FileNotFoundError, match=r"s3://faces/models/none\.pt does not exist"):
        load_backbone("s3://faces/models/none.pt")
    with pytest.raises(ValueError, match=r"s3://faces/models/broken\.pt: "):
        load_backbone("s3://faces/models/broken.pt")


@pytest.mark.faults
def test_a_tracking_server_with_artifacts_on_s3_may_die_in_between(s3, through, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = TrackingServer(tmp_path, "s3://faces/mlflow", **environment(s3))
    server.start()
    try:
        settings = load_settings(None, [f"tracking.uri={server.uri}", "tracking.system_metrics=false"])
        with Run.open(settings, "train_ssl") as run:
            run.log_metrics({"loss": 3.0}, step=1)
            run.log_json({"a": 1}, "notes/a.json")
            server.kill()
            run.log_metrics({"loss": 2.0}, step=2)  # lost, and said
            server.start()
            run.log_metrics({"loss": 1.0}, step=3)
        client = MlflowClient(server.uri)
        assert client.get_run(run.run_id).info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run.run_id, "loss")] == [1, 3]
    finally:
        server.kill()
    assert [k for k in keys(s3, "mlflow/") if k.endswith("notes/a.json")]


def test_a_connection_cut_in_mid_write_leaves_nothing_that_looks_whole(s3, through):
    cable = Cable(s3)
    try:
        through(cable.port)
        folder = Folder("s3://faces/cut").create()
        data = bytes(range(256)) * 40_000  # 10 MB, more than one piece of an upload
        cable.limit = 3_000_000
        with pytest.raises(StorageError, match=r"s3://faces/cut/part-0000000.parquet: cannot be written"):
            folder.write("part-0000000.parquet", data)
        assert cable.cuts > 0
        assert "cut/part-0000000.parquet" not in keys(s3)
        cable.limit = None
        folder.clean_temp_files()
        folder.write("part-0000000.parquet", data)
        assert folder.read("part-0000000.parquet") == data
        assert keys(s3, "cut/") == ["cut/part-0000000.parquet"]
    finally:
        cable.close()


def test_storage_that_is_away_is_a_storage_error(through):
    through(9)
    with pytest.raises(StorageError, match=r"s3://faces/away/spec.json: cannot be read"):
        Folder("s3://faces/away").read("spec.json")
