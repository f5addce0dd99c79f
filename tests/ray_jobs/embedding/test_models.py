"""Models that are evaluated, and their baselines."""

import pytest
import torch
from support.datasets import write_dataset
from support.models import TINY

from facelib.data import DatasetError
from facelib.evaluation.protocols import open_set
from facelib.models import build_backbone, read_checkpoint, save_backbone
from ray_jobs.embedding.models import (
    EmbeddingModel,
    model_names,
    read_model_checkpoint,
    sample_faces,
    untrained_models,
)
from ray_jobs.errors import JobError


def save(path, seed=0, **options):
    torch.manual_seed(seed)
    settings = {**TINY, **options}
    save_backbone(path, build_backbone("iresnet", **settings), "iresnet", settings, {"template": "arcface"})
    return EmbeddingModel(path.stem, str(path))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/ssl/model.pt", "out/unpg/model.pt"], ["ssl", "unpg"]),
        (["out/ssl/model.pt", "out/ssl/model-whitened.pt", "x-whitened.pt"], ["ssl", "ssl-whitened", "x-whitened"]),
        (["a/ssl/model.pt", "b/ssl/model.pt", "x.pth"], ["a-ssl", "b-ssl", "x"]),
    ],
)
def test_names_tell_checkpoints_apart(paths, names):
    assert model_names(paths) == names


def test_one_untrained_network_for_each_architecture(tmp_path):
    models = [save(tmp_path / "a.pt"), save(tmp_path / "b.pt", 1), save(tmp_path / "c.pt", embedding_size=8)]
    checkpoints = {model.name: read_checkpoint(model.path) for model in models}
    assert [m.path for m in untrained_models(models, checkpoints)] == [models[0].path, models[2].path]
    (alone,) = untrained_models(models[:2], checkpoints)
    assert (alone.name, alone.untrained, alone.trained) == ("untrained", True, False)


def test_a_checkpoint_must_match_the_sets(tmp_path, capsys):
    model = save(tmp_path / "half.pt")
    write_dataset(tmp_path / "faces", identities=6, images=2)
    write_dataset(tmp_path / "shifted", identities=6, images=2, template="arcface-96")
    read_model_checkpoint(model, [open_set(f"{tmp_path}/faces", {"pairs": 6})])
    assert "half: the checkpoint does not state its size, color" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="model half and set shifted"):
        read_model_checkpoint(model, [open_set(f"{tmp_path}/shifted", {"pairs": 6})])
    with pytest.raises(JobError, match=r"evaluate\.models: .*gone\.pt"):
        read_model_checkpoint(EmbeddingModel("gone", f"{tmp_path}/gone.pt"), [])


def test_baselines_are_fitted_on_faces_of_all_parts(tmp_path):
    dataset = write_dataset(tmp_path / "faces", identities=24, images=2, per_part=8)
    assert sample_faces(dataset, 6).shape == (6, 112, 112, 3)
    assert sample_faces(dataset, 1000).shape == (48, 112, 112, 3)
