from types import SimpleNamespace

import numpy as np
import pytest

from facelib.config import TuneSettings
from facelib.tuning.stopping import rungs, should_stop
from facelib.tuning.trials import EpochReport, Trial, TrialSegment


def trial(number, values=()):
    reports = [EpochReport(epoch=e, value=v, seconds=0) for e, v in enumerate(values, 1)]
    return Trial(number=number, seed=0, segments=[TrialSegment(parameters={}, stop_epoch=9)], reports=reports)


def test_asha_stops_what_is_not_among_the_best_third_at_a_rung():
    tune = TuneSettings(scheduler="asha", grace_epochs=1, reduction=3)
    others = [trial(n, [v]) for n, v in enumerate((0.5, 0.6, 0.7, 0.8))]
    assert should_stop(tune, trial(9, [0.65]), others, 9)
    assert not should_stop(tune, trial(9, [0.75]), others, 9)
    assert not should_stop(tune, trial(9, [0.1]), [], 9)
    assert not should_stop(tune, trial(9, [0.75, 0.1]), others, 9)  # epoch 2 is no rung
    assert not should_stop(tune, trial(9, [0.1]), others, 1)  # the whole training was one epoch
    assert should_stop(tune.model_copy(update={"mode": "min"}), trial(9, [0.75]), others, 9)
    assert rungs(tune, 30) == [1, 3, 9, 27]
    assert rungs(tune, 9) == [1, 3]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_same_decisions_as_ray_tune_s_schedulers(name, mode):
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    controller = SimpleNamespace(get_live_trials=list)
    tune = TuneSettings(scheduler=name, mode=mode, grace_epochs=2, reduction=2, median_trials=3)
    stopped = 0
    for case in range(20):
        rng = np.random.default_rng(case)
        if name == "asha":
            # max_t lies beyond the last epoch: Ray would stop there what is complete for us.
            theirs = AsyncHyperBandScheduler("epoch", "value", mode, max_t=1000, grace_period=2, reduction_factor=2)
        else:
            theirs = MedianStoppingRule("epoch", "value", mode, grace_period=2, min_samples_required=3)
        ours = [trial(n) for n in range(8)]
        ghosts = [Ghost(f"t{n}") for n in range(8)]
        for ghost in ghosts:
            theirs.on_trial_add(controller, ghost)
        running = list(range(8))
        while running:
            number = int(rng.choice(running))
            epoch, value = len(ours[number].reports) + 1, float(rng.random())
            ours[number].reports.append(EpochReport(epoch=epoch, value=value, seconds=0))
            others = [t for t in ours if t.number != number]
            decision = should_stop(tune, ours[number], others, 1000)
            expected = theirs.on_trial_result(controller, ghosts[number], {"epoch": epoch, "value": value})
            assert decision == (expected == "STOP")
            stopped += decision
            if decision or epoch == 12:
                running.remove(number)
    assert stopped > 20


class Ghost:
    """As much of a trial as Ray's schedulers look at."""

    def __init__(self, trial_id):
        self.trial_id = trial_id
