import json
import math

import numpy as np
import pytest
import torch
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


def _random_training(rng: np.random.Generator, schedule: str) -> TrainSettings:
    return TrainSettings(
        epochs=int(rng.integers(1, 13)),
        schedule=schedule,
        learning_rate=10 ** rng.uniform(-4, 1),
        learning_rate_batch=int(rng.choice([0, 256, 512])),
        warmup_epochs=rng.choice([0, 0.01, 0.3, 0.5, 0.999, rng.random()]),
        step_epochs=rng.integers(1, 13, rng.integers(5)).tolist(),
    )


@pytest.mark.parametrize("schedule", ["cosine", "poly", "step", "plateau", "constant"])
@pytest.mark.parametrize("seed", range(60))
def test_schedules_are_their_definitions_and_never_exceed_the_peak(schedule, seed):
    rng = np.random.default_rng(seed)
    train = _random_training(rng, schedule)
    per_epoch, batch = int(rng.integers(1, 16)), int(rng.choice([32, 512, 700]))
    peak = train.learning_rate * (batch / train.learning_rate_batch if train.learning_rate_batch else 1)
    warmup, total = train.warmup_epochs * per_epoch, train.epochs * per_epoch
    rate = LRScheduler(train, per_epoch, batch)
    for step in range(total):
        if step < warmup:
            expected = peak * min(1, (step + 1) / warmup)
        elif train.schedule == "cosine":
            expected = peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        elif train.schedule == "poly":
            expected = peak * ((total - step) / (total - warmup)) ** 2
        elif train.schedule == "step":
            expected = peak
            for epoch in train.step_epochs:
                expected /= 10 if step // per_epoch >= epoch else 1
        else:
            expected = peak
        assert rate.at(step) == pytest.approx(expected, rel=1e-9, abs=1e-12 * peak)
        assert 0 < rate.at(step) <= peak * (1 + 1e-12)


def _torch_rates(build, peak: float, steps: int) -> list[float]:
    """Learning rates of one of torch's own schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("seed", range(40))
def test_schedules_equal_those_of_torch(seed):
    """With a warm-up of whole epochs, which is torch's LinearLR from the rate of the first step on."""
    rng = np.random.default_rng(seed)
    epochs, per_epoch, peak = int(rng.integers(1, 11)), int(rng.integers(1, 11)), float(10 ** rng.uniform(-3, 0))
    warmup = min(int(rng.integers(0, 4)), epochs - 1)
    rest = (epochs - warmup) * per_epoch
    milestones = [m for m in rng.integers(1, 11, 4).tolist() if m > warmup]
    scheduler = torch.optim.lr_scheduler
    after = {
        "cosine": lambda o: scheduler.CosineAnnealingLR(o, rest),
        "poly": lambda o: scheduler.PolynomialLR(o, rest, power=2),
        "step": lambda o: scheduler.MultiStepLR(o, [(m - warmup) * per_epoch for m in milestones]),
        "constant": lambda o: scheduler.ConstantLR(o, 1.0),
    }
    for name, build in after.items():
        train = TrainSettings(
            epochs=epochs, schedule=name, warmup_epochs=warmup, step_epochs=milestones,
            learning_rate=peak, learning_rate_batch=0,
        )  # fmt: skip
        ours = LRScheduler(train, per_epoch, 8)
        rates = [ours.at(step) for step in range(epochs * per_epoch)]
        expected = _torch_rates(build, peak, rest)
        if warmup:
            ramp = _torch_rates(
                lambda o: scheduler.LinearLR(o, 1 / (warmup * per_epoch), 1.0, max(warmup * per_epoch - 1, 1)),
                peak, warmup * per_epoch,
            )  # fmt: skip
            expected = ramp + expected
        assert rates == pytest.approx(expected, rel=1e-6, abs=1e-9 * peak), name


@pytest.mark.parametrize("seed", range(200))
def test_plateau_equals_that_of_torch_and_resumes_anywhere(seed):
    rng = np.random.default_rng(seed)
    levels = [0.5, 0.6, 0.60005, 0.6001, 0.7, math.nan]
    history = [float(rng.choice([*levels, rng.random()])) for _ in range(rng.integers(1, 81))]
    patience, cooldown, resumed = int(rng.integers(1, 6)), int(rng.integers(0, 6)), int(rng.integers(0, 80))
    threshold = float(rng.choice([0.0, 1e-4, 0.05]))
    train = TrainSettings(
        schedule="plateau", plateau_patience=patience, plateau_cooldown=cooldown, plateau_threshold=threshold,
        learning_rate=0.4, learning_rate_batch=0,
    )  # fmt: skip
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.1, patience=patience, threshold=threshold, cooldown=cooldown, eps=0
    )
    rate = LRScheduler(train, 3, 8)
    for number, metric in enumerate(history):
        if number == resumed:
            state, rate = json.loads(json.dumps(rate.state_dict())), LRScheduler(train, 3, 8)
            rate.load_state_dict(state)
        rate.observe(metric)
        reference.step(metric)
        assert rate.at(number * 3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_other_schedules_do_not_follow_the_metric():
    rate = LRScheduler(TrainSettings(schedule="constant", learning_rate=1, learning_rate_batch=0), 1, 8)
    for _ in range(50):
        rate.observe(0.5)
    assert rate.at(50) == 1


def test_a_plateau_of_an_older_checkpoint_has_no_cooldown():
    rate = LRScheduler(TrainSettings(schedule="plateau"), 1, 8)
    rate.load_state_dict({"plateau_factor": 0.1, "best": 0.7, "waited": 2.0})
    assert rate.state_dict() == {"plateau_factor": 0.1, "best": 0.7, "waited": 2, "cooldown": 0}


def test_a_metric_that_is_not_a_number_is_never_the_best():
    network, selection = nn.Linear(2, 2), BestCheckpoint(patience=0)
    for epoch, metric in enumerate((math.nan, 0.5, math.nan, 0.6, 0.55)):
        selection.observe(metric, epoch, network)
    assert (selection.epoch, selection.metric) == (3, 0.6)


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
