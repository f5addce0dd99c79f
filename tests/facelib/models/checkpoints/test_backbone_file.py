"""Backbone files: ours and the published ones."""

import gzip
import os
from pathlib import Path

import pytest
import torch
from support.models import assert_same_state, trained_backbone

from facelib.models import (
    CheckpointError,
    load_backbone,
    load_checkpoint_image_spec,
    read_checkpoint,
    save_backbone,
    take_symmetric_pixels,
)

GOLDEN = Path(__file__).parents[3] / "golden"
IMAGE_SPEC = {"template": "arcface", "size": 32, "color_order": "RGB", "normalization": [0.5, 0.5]}
SETTINGS = {"embedding_size": 8, "image_size": 32}
PUBLISHED = {"embedding_size": 8, "image_size": 32, "layers": [1, 2, 1, 1], "width": 0.25, "use_se": True}


def test_smallest_example(tmp_path):
    backbone = trained_backbone("iresnet10-narrow", **SETTINGS)
    save_backbone(tmp_path / "model.pt", backbone, "iresnet10-narrow", SETTINGS, IMAGE_SPEC)
    again = load_backbone(tmp_path / "model.pt")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), backbone.eval()(images))
    assert load_checkpoint_image_spec(tmp_path / "model.pt") == IMAGE_SPEC


@pytest.mark.parametrize("name", ["iresnet18-narrow", "mobilefacenet"])
def test_own_files_load_as_plain_tensors(tmp_path, name):
    backbone = trained_backbone(name, **SETTINGS)
    save_backbone(tmp_path / "model.pt", backbone, name, SETTINGS, IMAGE_SPEC)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert (content["name"], content["settings"], content["image_spec"]) == (name, SETTINGS, IMAGE_SPEC)
    assert_same_state(load_backbone(tmp_path / "model.pt"), backbone)


def test_saving_replaces_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    first, second = trained_backbone("iresnet10-narrow", **SETTINGS), trained_backbone("iresnet10-narrow", **SETTINGS)
    save_backbone(path, first, "iresnet10-narrow", SETTINGS, IMAGE_SPEC)

    def fails(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="disk full"):
            save_backbone(path, second, "iresnet10-narrow", SETTINGS, IMAGE_SPEC)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"], "no temporary file stays behind"
    assert_same_state(load_backbone(path), first)


def test_saving_refuses_a_backbone_that_is_not_what_its_settings_say(tmp_path):
    with pytest.raises(CheckpointError, match=r"of another shape: conv1\.weight"):
        save_backbone(tmp_path / "m.pt", trained_backbone("iresnet10-narrow", **SETTINGS), "iresnet10-narrow",
                      {**SETTINGS, "width": 1.0}, IMAGE_SPEC)  # fmt: skip
    with pytest.raises(ValueError, match="image_spec"):
        save_backbone(tmp_path / "m.pt", trained_backbone("iresnet10-narrow", **SETTINGS), "iresnet10-narrow", SETTINGS,
                      {"size": torch.zeros(1)})  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_usynthface_checkpoint_is_the_query_encoder(tmp_path):
    query, key = trained_backbone("iresnet", **PUBLISHED), trained_backbone("iresnet", **PUBLISHED)
    state = {f"encoder_q.{n}": v for n, v in query.state_dict().items()}
    state |= {f"encoder_k.{n}": v for n, v in key.state_dict().items()}
    state |= {"queue": torch.zeros(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save(state, tmp_path / "checkpoint_003.pth")
    torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}}, tmp_path / "wrapped.pth")
    for path in tmp_path.iterdir():
        assert read_checkpoint(path).format == "usynthface"
        assert_same_state(load_backbone(path), query)
        assert load_checkpoint_image_spec(path) is None


def test_arcface_torch_checkpoint_is_a_plain_state_dict(tmp_path):
    backbone = trained_backbone("iresnet18", embedding_size=8)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    checkpoint = read_checkpoint(tmp_path / "backbone.pth")
    assert checkpoint.format == "arcface_torch"
    assert checkpoint.settings == {"embedding_size": 8, "use_se": False, "layers": [2, 2, 2, 2]}
    assert_same_state(load_backbone(tmp_path / "backbone.pth"), backbone)


def test_unpg_checkpoint_made_by_the_original(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(gzip.decompress((GOLDEN / "unpg_checkpoint_tiny.pt.gz").read_bytes()))
    backbone = load_backbone(path)
    assert read_checkpoint(path).format == "unpg"
    for index, parameter in enumerate(backbone.parameters()):
        assert torch.equal(parameter, torch.full_like(parameter, 0.001 * (index + 1)))
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 112, 112)).shape == (1, 8)


def test_missing_and_surplus_parameters_are_listed(tmp_path):
    state = trained_backbone("iresnet", **PUBLISHED).state_dict()
    del state["layer2.1.bn2.bias"], state["features.running_var"]
    torch.save(state | {"layer3.0.extra": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="2 missing: ") as error:
        load_backbone(tmp_path / "b.pth")
    assert "layer2.1.bn2.bias, features.running_var; 1 surplus: layer3.0.extra" in str(error.value)


def test_counters_of_batches_may_be_missing(tmp_path):
    backbone = trained_backbone("iresnet", **PUBLISHED)
    state = {n: v for n, v in backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert torch.equal(load_backbone(tmp_path / "old.pth").fc.weight, backbone.fc.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "no tensors found under"),
        ({"weight": torch.zeros(3)}, r"no IResNet, parameters conv1\.weight"),
        ({"format": "facelib.backbone", "version": 99}, "version 99"),
        ({"format": "facelib.backbone", "version": 1, "name": "iresnet18"}, "field 'settings'"),
    ],
)
def test_other_files_are_explained(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path / "x.pt")


def test_absent_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_backbone("nowhere.pt")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_cut_off_file_is_an_incomplete_download(tmp_path, share):
    torch.save({f"layer.{i}.weight": torch.zeros(64, 64) for i in range(40)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    cut = content[: int(len(content) * share)]
    (tmp_path / "cut.pth").write_bytes(cut)
    message = rf"cut\.pth: the file is cut off after {len(cut)} bytes, by an incomplete download or copy; download"
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"),
    ],
)
def test_what_was_downloaded_instead_of_a_checkpoint_is_said(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth: {message}"):
        load_backbone(tmp_path / "x.pth")


def test_the_normalization_of_a_network_goes_with_it(tmp_path):
    network = take_symmetric_pixels(trained_backbone("iresnet10-narrow", **SETTINGS), "imagenet")
    save_backbone(tmp_path / "a.pt", network, "iresnet10-narrow", SETTINGS, {"size": 32})
    assert load_checkpoint_image_spec(tmp_path / "a.pt") == {"size": 32, "normalization": "imagenet"}
    again = load_backbone(tmp_path / "a.pt")
    assert again.normalization == read_checkpoint(tmp_path / "a.pt").normalization == "imagenet"
    with pytest.raises(ValueError, match="normalization 'symmetric', but the backbone was trained with 'imagenet'"):
        save_backbone(tmp_path / "b.pt", again, "iresnet10-narrow", SETTINGS, {"normalization": "symmetric"})
    assert not (tmp_path / "b.pt").exists()


def test_files_that_do_not_state_it_have_images_in_minus_one_to_one(tmp_path):
    save_backbone(tmp_path / "a.pt", trained_backbone("iresnet10-narrow", **SETTINGS), "iresnet10-narrow", SETTINGS, {})
    assert load_checkpoint_image_spec(tmp_path / "a.pt") == {}
    assert read_checkpoint(tmp_path / "a.pt").normalization == "symmetric"
