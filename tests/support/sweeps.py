"""A finished sweep of 24 trials, made up: its settings and its trials."""

import numpy as np
import yaml

from facelib.config import Settings, load_settings
from facelib.tuning.report import finalists
from facelib.tuning.space import SearchSpace
from facelib.tuning.trials import EpochReport, Trial, TrialSegment

SPACE = {
    "augment.num_ops": {"integer": [0, 4]},
    "augment.magnitude": {"uniform": [0, 30]},
    "ssl.queue_policy": {"choice": ["fifo", "replace_most_similar"]},
}


def sweep_settings(folder) -> Settings:
    """Settings of a sweep of 24 trials with repeats of two finalists."""
    tune = {"space": SPACE, "trials": 24, "finalists": 2, "final": {"train.epochs": 80}}
    (folder / "tune.yaml").write_text(yaml.safe_dump({"output": str(folder / "out"), "tune": tune}))
    return load_settings(folder / "tune.yaml", ["augment.strength_start=0.2"])


def sweep_trials(settings) -> dict[int, Trial]:
    """Trials of that sweep by number: 0 is the base trial, odd ones were stopped, the last one failed."""
    space, rng = SearchSpace(SPACE, settings), np.random.default_rng(0)
    trials = {}
    for number in range(25):
        parameters = space.sample(rng) if number else {}
        ops, magnitude = parameters.get("augment.num_ops", 4), parameters.get("augment.magnitude", 16)
        score = 0.9 - 0.01 * abs(ops - 2) - 0.001 * abs(magnitude - 12) + 0.002 * rng.normal()
        epochs = 2 if number % 2 else 5
        reports = [
            EpochReport(epoch=e, value=score - 0.05 / e, seconds=20 * number + 3 * e) for e in range(1, epochs + 1)
        ]
        state = "failed" if number == 24 else "stopped" if number % 2 else "finished"
        trials[number] = Trial(
            number=number, seed=0, segments=[TrialSegment(parameters=parameters, stop_epoch=5, done=True)], state=state,
            reason="the training diverged" if number == 24 else "", reports=reports, score=reports[-1].value,
            epoch=epochs, seconds=12,
        )  # fmt: skip
    for finalist in finalists([*trials.values()], settings.tune):
        for seed in (1, 2, 3):
            number = len(trials)
            value = float(finalist.score) - 0.004 + 0.003 * rng.normal()
            trials[number] = Trial(
                number=number, kind="repeat", source_trial=finalist.number, seed=seed, segments=finalist.segments,
                state="finished",
                reports=[EpochReport(epoch=5, value=value, seconds=600)], score=value, epoch=5,
            )  # fmt: skip
    return trials
