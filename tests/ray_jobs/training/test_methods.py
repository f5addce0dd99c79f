"""Both methods on random images, without a trainer."""

import copy

import pytest
import torch
from support.commands import ROOT
from support.fake_cuda import StepWatch, fake_cuda

from facelib.config import change_settings, load_settings
from facelib.data import DatasetError
from facelib.models import save_backbone, take_symmetric_pixels
from ray_jobs.training.methods import METHODS, backbone_kwargs, initial_backbone, new_backbone
from ray_jobs.training.optim import build_optimizer

TINY = {
    "model.name": "iresnet",
    "model.embedding_size": 16,
    "model.options": {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2},
    "ssl.queue_size": 12,
}


@pytest.fixture(scope="module")
def settings():
    return change_settings(load_settings(None, []), TINY, "test")


def forward(name, settings, views):
    torch.manual_seed(0)
    method = METHODS[name](settings, 5)
    assert method.sampling.views == views
    output = method(torch.randint(256, (views, 4, 3, 112, 112), dtype=torch.uint8), torch.tensor([0, 1, 2, 4]))
    output.loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.backbone.parameters())
    return output


def test_moco_takes_pairs_and_reports_cosines(settings):
    output = forward("ssl", settings, 2)
    assert output.metrics.keys() == {
        "contrast_accuracy", "contrast_accuracy_top5", "positive_cosine", "negative_cosine", "xnorm",
    }  # fmt: skip
    assert -1 <= output.metrics["positive_cosine"] <= 1


@pytest.mark.parametrize("head", ["arcface", "cosface", "magface"])
def test_margin_softmax_takes_single_images(settings, head):
    changed = change_settings(settings, {"unpg.head": head, "unpg.triplet": 0.5}, "test")
    metrics = forward("unpg", changed, 1).metrics
    assert metrics.keys() == {"train_accuracy", "train_accuracy_top5", "xnorm", "triplet_loss"}
    assert metrics["train_accuracy_top5"] == 1  # of five classes


@pytest.mark.parametrize("name", ["ssl", "unpg"])
def test_xnorm_is_the_mean_length_of_the_embeddings(settings, name):
    torch.manual_seed(0)
    method = METHODS[name](settings, 5)
    images = torch.randint(256, (method.sampling.views, 4, 3, 112, 112), dtype=torch.uint8)
    # The network of a step in training mode, before it changes its statistics.
    embeddings = copy.deepcopy(method.backbone).train()((images[0].float() / 255 - 0.5) / 0.5).double()
    expected = torch.tensor([row.square().sum().sqrt() for row in embeddings]).mean().item()
    assert method(images, torch.tensor([0, 1, 2, 4])).metrics["xnorm"].item() == pytest.approx(expected, rel=1e-4)


def test_one_identity_has_no_other_class(settings):
    with pytest.raises(DatasetError, match=r"have 1 identity: softmax over classes needs at least two.*train_ssl"):
        METHODS["unpg"](settings, 1)


def test_training_starts_from_the_weights_of_a_checkpoint(settings, tmp_path):
    backbone = new_backbone(settings.model)
    image_spec = {"template": "arcface", "size": 112}
    save_backbone(tmp_path / "model.pt", backbone, "iresnet", backbone_kwargs(settings.model), image_spec)
    chosen = change_settings(settings, {"model.init_from": f"{tmp_path}/model.pt"}, "test")
    for first, second in zip(backbone.parameters(), initial_backbone(chosen.model).parameters(), strict=True):
        assert torch.equal(first, second)
    other = change_settings(chosen, {"model.embedding_size": 32}, "test")
    with pytest.raises(ValueError, match=r"model\.init_from: .* does not fit iresnet with these settings"):
        initial_backbone(other.model)


STEPS = {
    "MoCo, fifo": ("ssl", {}),
    "MoCo, replace_most_similar": ("ssl", {"ssl.queue_policy": "replace_most_similar"}),
    "ArcFace, UNPG": ("unpg", {}),
    "MagFace, UNPG": ("unpg", {"unpg.head": "magface"}),
    "ArcFace, UNPG, sharded, sample_rate 0.1": ("unpg", {"unpg.shard_head": True, "unpg.sample_rate": 0.1}),
}


@pytest.mark.parametrize("title", STEPS)
def test_operations_of_a_step_are_those_of_the_documentation(title):
    """IResNet-50, 128 samples on each of 8 GPUs, 85,742 classes: the row of docs/results.md."""
    name, changes = STEPS[title]
    chosen = change_settings(load_settings(None, []), changes, "test")
    with fake_cuda(ranks=8):
        method = METHODS[name](chosen, 85_742).to("cuda")
        optimizer = build_optimizer(method.parameters(), chosen.train)
        images = torch.zeros(method.sampling.views, 128, 3, 112, 112, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(128, dtype=torch.long, device="cuda")
        with StepWatch() as step:
            with torch.autocast("cuda", torch.bfloat16):
                output = method(images, labels)
            output.loss.backward()
            optimizer.step()
    collectives = ", ".join(f"{count} {name.strip('_')}" for name, count in step.collectives.items())
    collectives = collectives.replace("_base", "").replace("_", "-")
    megabytes = step.received_bytes.total() / 1e6
    row = f"| {title} | {step.operations.total():,} | {collectives} | {megabytes:.2f} |"
    assert row in (ROOT / "docs" / "results.md").read_text(), row


@pytest.mark.parametrize("given", ["auto", "imagenet"])
def test_training_gives_a_network_the_pixels_of_its_first_weights(settings, tmp_path, given):
    backbone = new_backbone(settings.model)
    image_spec = {"template": "arcface", "normalization": "imagenet"}
    save_backbone(tmp_path / "model.pt", backbone, "iresnet", backbone_kwargs(settings.model), image_spec)
    chosen = change_settings(
        settings, {"model.init_from": f"{tmp_path}/model.pt", "model.normalization": given}, "test"
    )
    network, images = initial_backbone(chosen.model).eval(), torch.rand(2, 3, 112, 112) * 2 - 1
    assert network.normalization == "imagenet"
    assert torch.equal(network(images), take_symmetric_pixels(backbone.eval(), "imagenet")(images))
    wrong = change_settings(chosen, {"model.normalization": "symmetric"}, "test")
    with pytest.raises(ValueError, match=r"pixel normalization imagenet, but model\.normalization is symmetric"):
        initial_backbone(wrong.model)


def test_both_encoders_of_moco_convert_their_pixels(settings):
    method = METHODS["ssl"](change_settings(settings, {"model.normalization": "imagenet"}, "test"), 5)
    for encoder in (method.moco.query_encoder, method.moco.key_encoder):
        assert encoder.pixel_scale.shape == (1, 3, 1, 1)
    assert not any("pixel" in name for name in method.state_dict())
