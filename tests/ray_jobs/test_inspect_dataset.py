"""The report of whole sets, measured on Ray."""

import json

import pytest
import torch
from mlflow import MlflowClient
from support.datasets import pattern, write_dataset

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError, encode_image
from facelib.models import build_backbone, save_backbone
from facelib.sources import write_bin
from ray_jobs.inspect_dataset import inspect_dataset, validate


@pytest.fixture
def output(tmp_path):
    """A dataset, a .bin and a small network."""
    write_dataset(tmp_path / "faces", identities=12, images=3, per_part=6, per_group=3)
    write_bin(tmp_path / "real.bin", [encode_image(pattern(i, 0)) for i in range(8)], [True] * 4)
    torch.manual_seed(0)
    settings = {"embedding_size": 16, "layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}
    backbone = build_backbone("iresnet", **settings)
    save_backbone(tmp_path / "model.pt", backbone, "iresnet", settings, {"template": "arcface", "size": 112})
    return tmp_path


def settings(output, *more):
    sets = json.dumps(["faces", f"real={output}/real.bin"])
    return load_settings(None, [f"output={output}", f"inspect.sets={sets}", "inspect.cpus_per_actor=0.5", *more])


@pytest.mark.slow
def test_two_sets_side_by_side(output, run, ray_cluster, capsys):
    result = inspect_dataset(settings(output, "inspect.model=model.pt"), run)
    assert result.written == (f"{output}/inspection/report.json",)
    report = json.loads((output / "inspection" / "report.json").read_text())
    faces, real = report["sets"]["faces"], report["sets"]["real"]
    assert (faces["faces"], real["faces"]) == (36, 8)
    assert faces["identities"]["identities"] == 12
    assert result.metrics["faces/identities/auc"] == faces["identities"]["auc"]
    assert 0 <= faces["identities"]["auc"] <= 1
    assert real["identities"] is None
    assert "yaw" not in real["measures"]
    # The same patterns under different light: measures do not depend on where the images are stored.
    assert abs(faces["measures"]["brightness"]["mean"] - real["measures"]["brightness"]["mean"]) < 30
    for name in ("extremes_faces", "identities_faces", "extremes_real"):
        assert (output / "inspection" / f"{name}.png").stat().st_size > 5_000
    assert "share between identities" in capsys.readouterr().out
    client = MlflowClient(run.uri)
    assert client.get_run(run.run_id).data.metrics["faces/identities/auc"] == pytest.approx(faces["identities"]["auc"])
    assert "report.json" in {f.path for f in client.list_artifacts(run.run_id)}


def test_a_model_with_another_image_spec_is_refused(output, run, ray_cluster):
    write_dataset(output / "small", identities=4, images=2, size=96)
    cfg = load_settings(None, [f"output={output}", 'inspect.sets=["small"]', "inspect.model=model.pt"])
    with pytest.raises(DatasetError, match="size: 112 against 96"):
        inspect_dataset(cfg, run)


@pytest.mark.parametrize(
    ("sets", "message"),
    [("[]", "empty"), ('["a/faces", "faces"]', "duplicate name faces"), ('["none.bin"]', "none.bin does not exist")],
)
def test_invalid_sets_are_refused(output, sets, message):
    with pytest.raises(SettingsError, match=rf"inspect\.sets: .*{message}"):
        validate(load_settings(None, [f"output={output}", f"inspect.sets={sets}"]))


def test_a_missing_model_is_refused(output):
    with pytest.raises(SettingsError, match=r"inspect\.model: .*nothing\.pt does not exist"):
        validate(settings(output, "inspect.model=nothing.pt"))
    validate(settings(output, "inspect.model=nothing.pt"), upcoming=[f"{output}/nothing.pt"])
