import math

import pytest
from torch import nn

from facelib.config import TrainSettings
from ray_jobs.training.optim import BestCheckpoint, LRScheduler, build_optimizer, resumed_step


def test_cosine_with_warmup_starts_low_peaks_and_ends_at_zero():
    rate = LRScheduler(TrainSettings(epochs=10, warmup_epochs=2, learning_rate=0.1, learning_rate_batch=512), 5, 1024)
    values = [rate.at(step) for step in range(50)]
    assert values[0] == pytest.approx(0.2 / 10)
    assert max(values) == pytest.approx(0.2) == pytest.approx(values[10])
    assert values[30] == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi * 20 / 40)))
    assert values[-1] < 0.001


def test_steps_divide_by_ten():
    rate = LRScheduler(TrainSettings(epochs=40, schedule="step", learning_rate=1, learning_rate_batch=0), 2, 8)
    assert [rate.at(e * 2) for e in (0, 7, 8, 16, 24, 32)] == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.0001])


def test_plateau_waits_then_cuts_and_remembers():
    train = TrainSettings(schedule="plateau", plateau_patience=2, learning_rate=1, learning_rate_batch=0)
    rate = LRScheduler(train, 1, 8)
    for metric in (0.5, 0.6, 0.6, 0.6):
        rate.observe(metric)
    assert rate.at(0) == 1
    rate.observe(0.59)
    assert rate.at(0) == pytest.approx(0.1)
    other = LRScheduler(train, 1, 8)
    other.load_state_dict(rate.state_dict())
    assert other.at(99) == rate.at(99)


def test_selection_keeps_the_weights_of_the_best_epoch():
    network = nn.Linear(2, 2)
    selection = BestCheckpoint(patience=2)
    for epoch, metric in enumerate((0.5, 0.7, 0.6, 0.65)):
        nn.init.constant_(network.weight, epoch)
        selection.observe(metric, epoch, network)
    assert selection.epoch == 1
    assert selection.weights["weight"].unique().tolist() == [1.0]
    assert selection.exhausted


def test_adamw_decays_weights_only_and_sgd_everything():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    adamw = build_optimizer(network.parameters(), TrainSettings(optimizer="adamw", weight_decay=0.1))
    assert [(len(g["params"]), g["weight_decay"]) for g in adamw.param_groups] == [(1, 0.1), (3, 0.0)]
    sgd = build_optimizer(network.parameters(), TrainSettings(weight_decay=0.1))
    assert [(len(g["params"]), g["weight_decay"], g["momentum"]) for g in sgd.param_groups] == [(4, 0.1, 0.9)]


@pytest.mark.parametrize("samples", [100, 97, 64])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 2), (4, 3), (3, 4)])
def test_another_number_of_workers_takes_up_at_the_same_place(samples, before, after):
    """Every position of an epoch of `samples`, with batches of 4 a worker."""
    old, new = samples // (4 * before), samples // (4 * after)
    for step in range(3 * old):
        epoch, done = step // old, step % old * 4 * before
        resumed = resumed_step(epoch, done, 4 * after, new)
        assert resumed // new == epoch  # neither an epoch twice nor one left out
        assert done - 4 * after < resumed % new * 4 * after <= done or resumed % new == new - 1
        if before == after:
            assert resumed == step
    assert resumed_step(3, 0, 4 * after, new) == 3 * new  # a finished training stays finished
