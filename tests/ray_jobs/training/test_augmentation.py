import pytest
import torch

from facelib.augmentation import TorchvisionAugmentation
from facelib.config import AugmentSettings
from facelib.config.fields import SettingsError
from ray_jobs.training.augmentation import AugmentationSpec, augments_on_device


def test_strength_ramps_from_start_to_end():
    ramp = AugmentationSpec(AugmentSettings(strength=0.9, strength_start=0.3), total_steps=10)
    assert [ramp.strength(step) for step in (0, 5, 10)] == pytest.approx([0.3, 0.6, 0.9])
    assert AugmentationSpec(AugmentSettings(strength=0.7), total_steps=10).strength(0) == 0.7


def test_the_operation_has_the_settings():
    augment = AugmentationSpec(AugmentSettings(flip=1.0, num_ops=0), total_steps=1).build()
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    assert torch.equal(augment(images, torch.Generator()), images.flip(3))


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="solarize_everything"):
        AugmentationSpec(AugmentSettings(options={"solarize_everything": 1}), total_steps=1).build()


def test_a_policy_takes_the_place_of_randaugment():
    images = torch.arange(2 * 3 * 64 * 64).remainder(256).to(torch.uint8).reshape(2, 3, 64, 64)
    augment = AugmentationSpec(AugmentSettings(policy="moco_v2"), total_steps=1).build()
    assert isinstance(augment, TorchvisionAugmentation)
    draws = augment.draw(2, torch.Generator().manual_seed(1))
    assert torch.equal(augment(images, torch.Generator().manual_seed(1)), augment.transform(images, draws.numpy()))
    own = AugmentationSpec(
        AugmentSettings(policy="torchvision_randaugment", flip=1.0, num_ops=0), total_steps=1
    ).build()
    assert torch.equal(own(images), images.flip(3))
    for misplaced in ({"options": {"blur": 0.5}}, {"operations": ["Invert"]}):
        with pytest.raises(ValueError, match="policy moco_v1 has no options and operations"):
            AugmentationSpec(AugmentSettings(policy="moco_v1", **misplaced), total_steps=1).build()
    assert not augments_on_device(AugmentSettings(policy="moco_v1"), torch.device("cuda", 0))
    with pytest.raises(SettingsError, match=r"augment\.policy=moco_v1 works on CPUs"):
        augments_on_device(AugmentSettings(policy="moco_v1", device="cuda"), torch.device("cuda", 0))


def test_nvjpeg_needs_a_gpu_that_augments():
    cuda = torch.device("cuda", 0)
    assert augments_on_device(AugmentSettings(decoder="nvjpeg"), cuda)
    for settings, device in (({}, torch.device("cpu")), ({"device": "cpu"}, cuda), ({"policy": "moco_v2"}, cuda)):
        with pytest.raises(SettingsError, match=r"augment\.decoder: nvjpeg, but images are decoded"):
            augments_on_device(AugmentSettings(decoder="nvjpeg", **settings), device)


def test_operations_are_a_setting():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    settings = AugmentSettings(flip=0, num_ops=1, operations=["Invert"])
    assert torch.equal(AugmentationSpec(settings, total_steps=1).build()(images), 255 - images)
    with pytest.raises(ValueError, match="'Flip' does not exist"):
        AugmentationSpec(AugmentSettings(operations=["Flip"]), total_steps=1).build()


def test_a_gpu_augments_where_there_is_one():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    decisions = {
        device: [augments_on_device(AugmentSettings(device=device), d) for d in (cpu, cuda)]
        for device in ("auto", "cpu")
    }
    assert decisions == {"auto": [False, True], "cpu": [False, False]}
    assert augments_on_device(AugmentSettings(device="cuda"), cuda)
    with pytest.raises(SettingsError, match=r"augment\.device: cuda, but the trainer has no GPU"):
        augments_on_device(AugmentSettings(device="cuda"), cpu)
