"""The whiten job: what it writes is the same network, whitened by a dataset, and every other job takes it."""

import numpy as np
import pytest
import torch
from support.datasets import write_dataset
from support.models import TINY

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError
from facelib.embedding import embed_images
from facelib.models import WithinClassWhitening, build_backbone, load_backbone, read_checkpoint, save_backbone
from ray_jobs.errors import JobError
from ray_jobs.whiten import validate, whiten


@pytest.fixture
def cfg(tmp_path):
    """Function: settings of tmp_path, which has a model."""
    torch.manual_seed(0)
    image_spec = {"template": "arcface", "size": 112, "color": "RGB", "training": {"epoch": 3}}
    save_backbone(tmp_path / "ssl" / "model.pt", build_backbone("iresnet", **TINY), "iresnet", TINY, image_spec)
    return lambda *overrides: load_settings(None, [f"output={tmp_path}", *overrides])


def test_every_part_of_the_dataset_counts(tmp_path, cfg, run, ray_cluster):
    dataset = write_dataset(tmp_path / "faces", identities=20, images=2)
    assert len(dataset.manifest.parts) > 1
    result = whiten(cfg(), run)
    assert result.written == (f"{tmp_path}/ssl/model-whitened.pt",)
    assert result.metrics == {"ssl/model.pt/images": 40, "ssl/model.pt/identities": 20}
    images = [data for part in dataset.tables(["image"]) for data in part["image"].to_pylist()]
    plain = embed_images(load_backbone(tmp_path / "ssl" / "model.pt"), images, flip="none")
    expected = WithinClassWhitening.fit(plain, np.arange(20).repeat(2)).apply(plain)
    whitened = embed_images(load_backbone(tmp_path / "ssl" / "model-whitened.pt"), images, flip="none")
    np.testing.assert_allclose(whitened, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    stated = read_checkpoint(tmp_path / "ssl" / "model-whitened.pt").image_spec
    assert (stated["template"], stated["training"]) == ("arcface", {"epoch": 3})
    assert stated["whitening"] == {"faces": f"{tmp_path}/faces", "images": 40, "identities": 20, "shrinkage": 0.02}
    logged = run.client.get_run(run.run_id)
    assert [(i.dataset.name, i.tags[0].value) for i in logged.inputs.dataset_inputs] == [("faces", "train")]
    assert len(logged.outputs.model_outputs) == 1
    assert whiten(cfg("whiten.images=16"), run).metrics["ssl/model.pt/images"] < 40


def test_faces_with_one_image_of_each_identity(tmp_path, cfg, run, ray_cluster):
    write_dataset(tmp_path / "faces", identities=4, images=1)
    with pytest.raises(JobError, match=r"ssl/model.pt, on .*/faces: no identity has two images"):
        whiten(cfg(), run)
    assert not (tmp_path / "ssl" / "model-whitened.pt").exists()


def test_what_is_missing_is_said_first(tmp_path, cfg):
    with pytest.raises(DatasetError, match="faces"):
        validate(cfg())
    write_dataset(tmp_path / "faces", identities=2, images=1)
    validate(cfg())
    with pytest.raises(SettingsError, match=r"whiten\.models: .*/unpg/model\.pt does not exist"):
        validate(cfg("whiten.models=[ssl/model.pt, unpg/model.pt]"))
    validate(cfg("whiten.models=[unpg/model.pt]"), [f"{tmp_path}/unpg"])
    with pytest.raises(SettingsError, match="duplicate"):
        validate(cfg("whiten.models=[ssl/model.pt, ssl/model.pt]"))
    with pytest.raises(SettingsError, match="empty"):
        validate(cfg("whiten.models=[]"))
