"""Other codebases' trainings: what is read of them, in any order and numbering of their optimizers."""

import pytest
import torch
from support.models import trained_backbone
from support.published_files import pickled_module

from facelib.models import CheckpointError, load_backbone, read_published_training

TINY = {"embedding_size": 8, "image_size": 32, "layers": [1, 1, 1, 1], "width": 0.25}


def moco(tmp_path, prefix="", **more):
    query, key = trained_backbone("iresnet", **TINY), trained_backbone("iresnet", **TINY)
    state = {f"{prefix}queue": torch.rand(8, 12), f"{prefix}queue_ptr": torch.tensor([4])}
    state |= {f"{prefix}encoder_q.{n}": v for n, v in query.state_dict().items()}
    state |= {f"{prefix}encoder_k.{n}": v for n, v in key.state_dict().items()}
    torch.save({"state_dict": state, **more} if more else state, tmp_path / "checkpoint_0011.pth.tar")
    return tmp_path / "checkpoint_0011.pth.tar", query, key, state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_mocos_queue_and_key_encoder(tmp_path, prefix):
    path, query, key, state = moco(tmp_path, prefix)
    training = read_published_training(path)
    assert (training.epochs, training.momentum, training.head) == (11, {}, "")
    assert torch.equal(training.tensors["queue"], state[f"{prefix}queue"])
    assert training.tensors["queue_pointer"] == 4
    for name, value in key.state_dict().items():
        assert torch.equal(training.tensors[f"key_encoder.{name}"], value)
        assert torch.equal(training.tensors[f"backbone.{name}"], query.state_dict()[name])


@pytest.mark.parametrize("given", ["all", "query encoder", "trained"])
def test_an_optimizer_may_have_been_given_more_or_fewer_parameters(tmp_path, given):
    names = [name for name, _ in trained_backbone("iresnet", **TINY).named_parameters()]
    numbered = {"all": names * 2, "query encoder": names, "trained": [n for n in names if n != "features.weight"]}[
        given
    ]
    shapes = dict(trained_backbone("iresnet", **TINY).named_parameters())
    momentum = {
        index: {"momentum_buffer": torch.full(shapes[name].shape, float(index))}
        for index, name in enumerate(numbered)
        if name != "features.weight" and index < len(names)
    }
    groups = [{"params": list(range(len(numbered)))}]
    path, *_ = moco(tmp_path, optimizer={"state": momentum, "param_groups": groups}, epoch=5)
    training = read_published_training(path)
    assert training.epochs == 5
    assert set(training.momentum) == {f"backbone.{name}" for name in names if name != "features.weight"}
    for index, name in enumerate(numbered[: len(names)]):
        if name != "features.weight":
            assert (training.momentum[f"backbone.{name}"] == index).all()
    groups[0]["params"] = [0, 1]
    path, *_ = moco(tmp_path, optimizer={"state": momentum, "param_groups": groups}, epoch=5)
    with pytest.raises(CheckpointError, match=r"optimizer state, of 2 parameters, does not fit"):
        read_published_training(path)


def test_an_incomplete_moco_is_refused(tmp_path):
    path, _, _, state = moco(tmp_path)
    torch.save({name: value for name, value in state.items() if name != "queue"}, path)
    with pytest.raises(CheckpointError, match=r"incomplete, 1 tensors are missing: queue; model\.init_from"):
        read_published_training(path)


@pytest.mark.parametrize(
    "layer", ["head.weight", "head.module.weight", "head.fc.weight", "module.head.module.fc.weight"]
)
def test_unpgs_class_weights(tmp_path, layer):
    """MagFace's are [D, C]."""
    backbone, weight = trained_backbone("iresnet", **TINY), torch.rand(20, 8)
    head = pickled_module({layer: weight.T.contiguous() if "fc" in layer else weight})
    head.head_name = "magface" if "fc" in layer else "cosface"
    content = {"epoch": 3, "backbone": pickled_module(backbone.state_dict()), "optimizer": {}, "headandloss": head}
    torch.save(content, tmp_path / "last.pt")
    training = read_published_training(tmp_path / "last.pt")
    assert (training.epochs, training.head, training.backbone.normalization) == (4, head.head_name, "imagenet")
    assert torch.equal(training.tensors["class_weights"], weight)


def test_lightlys_momentum_backbone_is_not_a_second_network(tmp_path):
    """Its memory bank is not in its files: a backbone, for evaluation and `model.init_from`."""
    query, key = trained_backbone("iresnet", **TINY), trained_backbone("iresnet", **TINY)
    query.features.weight.data.fill_(1)
    state = {f"backbone.{n}": v for n, v in query.state_dict().items()}
    state |= {f"backbone_momentum.{n}": v for n, v in key.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "last.ckpt")
    assert torch.equal(load_backbone(tmp_path / "last.ckpt").conv1.weight, query.conv1.weight)
    with pytest.raises(CheckpointError, match="holds a backbone only"):
        read_published_training(tmp_path / "last.ckpt")
