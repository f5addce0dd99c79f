import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facelib.augmentation.rng import uniforms
from facelib.synthesis.latents import image_latents
from facelib.utils.random_streams import Purpose, random_generator, seed_sequence, torch_seed

ROOT = Path(__file__).parents[3]
# What a training is made of: every random number in it has a purpose.
SOURCES = [
    path
    for folder in ("ray_jobs/training", "facelib/contrastive", "facelib/losses", "facelib/data")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_every_pair_of_purposes_is_independent_at_every_seed_and_position():
    """Uniform draws [seeds · steps, 64] of each purpose, by NumPy and by torch: no two are correlated."""
    positions = [(seed, step) for seed in (0, 1, 2, 12345) for step in range(100)]
    streams: dict[str, np.ndarray] = {}
    for purpose in Purpose:
        streams[f"numpy {purpose.name}"] = np.array([random_generator(purpose, *p, 0).random(64) for p in positions])
        torch_draws = [uniforms(1, 64, torch.Generator().manual_seed(torch_seed(purpose, *p, 0))) for p in positions]
        streams[f"torch {purpose.name}"] = torch.cat(torch_draws).numpy()
    # The latents of generated faces have the same seed and their own counters.
    streams["latents"] = np.concatenate([image_latents(seed, [step], [0], 64) for seed, step in positions])
    centered = np.stack([(x - x.mean()).ravel() / x.std() for x in streams.values()])
    correlation = np.corrcoef(centered)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / np.sqrt(centered.shape[1]), list(streams)
    # A stream is not another one's from the next step or seed on either.
    shifted = np.corrcoef(centered[:, : -100 * 64], centered[:, 100 * 64 :])[: len(streams), len(streams) :]
    assert np.abs(shifted).max() < 5 / np.sqrt(centered.shape[1] - 100 * 64)


def test_dropout_and_augmentation_of_a_step_are_independent():
    """Of one step on one rank, whose first augmented sample is the step's first: the correlation was −0.85."""
    masks, draws = [], []
    for step in range(300):
        torch.manual_seed(torch_seed(Purpose.DROPOUT, 0, step, 0))
        masks.append(nn.functional.dropout(torch.ones(64), 0.5))
        generator = torch.Generator().manual_seed(torch_seed(Purpose.AUGMENTATION, 0, step, 0, 0))
        draws.append(uniforms(1, 64, generator)[0])
    pairs = torch.stack([torch.cat(masks).double(), torch.cat(draws)])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 5 / np.sqrt(pairs.shape[1])


def test_seeds_differ_by_purpose_seed_and_position():
    places = list(itertools.product(Purpose, (0, 1, 2**32, 2**32 + 1, 2**64, 2**100), range(20), range(3)))
    seeds = {torch_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == len(places), "torch's CPU generator uses 32 bits"
    torch.Generator().manual_seed(max(seeds))
    assert max(seeds) < 2**63


def test_positions_of_any_size_stay_apart():
    values = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63]
    states = {
        tuple(seed_sequence(Purpose.DROPOUT, 7, *place).generate_state(4))
        for place in itertools.product(values, repeat=2)
    }
    assert len(states) == len(values) ** 2


@pytest.mark.parametrize(("seed", "position"), [(-1, (0,)), (0, (-1,))])
def test_negative_numbers_are_refused(seed, position):
    with pytest.raises(ValueError, match="non-negative"):
        torch_seed(Purpose.DROPOUT, seed, *position)


def test_streams_keep_their_numbers():
    """Changing them changes every training."""
    assert torch_seed(Purpose.INITIAL_WEIGHTS, 0) == 2440950710608614359
    assert torch_seed(Purpose.DROPOUT, 1, 2, 3) == 4656615151231425962
    assert [int(p) for p in Purpose] == list(range(1, len(Purpose) + 1))


def test_each_purpose_has_one_consumer():
    uses = re.findall(r"Purpose\.([A-Z_]+)", "\n".join(path.read_text(encoding="utf-8") for path in SOURCES))
    assert sorted(uses) == sorted(purpose.name for purpose in Purpose)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_random_number_of_a_training_is_without_purpose(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.search(r"default_rng\(|RandomState\(|Philox\(|SeedSequence\(|np\.random\.seed|import random", line):
            pytest.fail(f"{path}: {line.strip()}: use facelib.utils.random_streams")
        if "manual_seed(" in line:
            assert re.search(r"manual_seed\((torch_seed\(|seed\)|s\))", line), line


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
def test_a_seed_may_be_drawn_in_a_compiled_module():
    class Shuffle(nn.Module):
        steps = 0

        def forward(self, x):
            generator = torch.Generator().manual_seed(torch_seed(Purpose.KEY_SHUFFLE, 3, self.steps))
            return x[torch.randperm(len(x), generator=generator)] + 1

    module, x = Shuffle(), torch.randn(16, 2)
    expected = module(x)
    module.compile(backend="eager")
    assert torch.equal(module(x), expected)
