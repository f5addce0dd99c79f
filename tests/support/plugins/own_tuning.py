"""A user's scheduler, searcher and callback for sweeps, as a file of their own."""

import json
import random
from pathlib import Path

import numpy as np
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher


class StopWorst(FIFOScheduler):
    """Stops a trial that is the worst of all at its epoch, sometimes; keeps its state in memory only."""

    def __init__(self, chance=1.0):
        super().__init__()
        self.chance, self.seen, self.log = chance, {}, []

    def on_trial_add(self, tune_controller, trial):
        self.log.append(("add", trial.trial_id, len(tune_controller.get_live_trials())))

    def on_trial_result(self, tune_controller, trial, result):
        values = self.seen.setdefault(result["training_iteration"], [])
        worst = values and result[self.metric] < min(values)
        values.append(result[self.metric])
        decision = TrialScheduler.STOP if worst and random.random() < self.chance else TrialScheduler.CONTINUE
        self.log.append((trial.trial_id, result["training_iteration"], decision))
        return decision

    def on_trial_complete(self, tune_controller, trial, result):
        self.log.append(("complete", trial.trial_id, result.get("epoch")))


class Pausing(FIFOScheduler):
    """Pauses every trial."""

    def on_trial_result(self, tune_controller, trial, result):
        return TrialScheduler.PAUSE


class HillClimb(Searcher):
    """Steps away from the best point so far; its state is in `save`."""

    def __init__(self, step=0.1, seed=0):
        super().__init__()
        self.step, self.rng = step, random.Random(seed)
        self.space, self.open, self.told = {}, {}, []

    def set_search_properties(self, metric, mode, config, **spec):
        self._metric, self._mode, self.space = metric, mode, config
        return True

    def suggest(self, trial_id):
        best = max((told for told in self.told if not told[3]), default=None, key=lambda told: told[1])
        draw = np.random.RandomState(self.rng.randrange(2**31))
        point = {name: domain.sample(random_state=draw) for name, domain in self.space.items()}
        if best is not None:
            point["augment.strength"] = min(1.0, max(0.0, best[0] + self.rng.choice((-1, 1)) * self.step))
        self.open[trial_id] = point["augment.strength"]
        return point

    def on_trial_complete(self, trial_id, result=None, error=False):
        value = None if error or not result else result[self.metric]
        self.told.append((self.open.pop(trial_id), value, trial_id, error))

    def save(self, checkpoint_path):
        state = {"open": self.open, "told": self.told, "rng": self.rng.getstate()}
        Path(checkpoint_path).write_text(json.dumps(state))

    def restore(self, checkpoint_path):
        state = json.loads(Path(checkpoint_path).read_text())
        self.open, self.told = state["open"], [tuple(told) for told in state["told"]]
        version, words, gauss = state["rng"]
        self.rng.setstate((version, tuple(words), gauss))


class Forgetful(Searcher):
    """Cannot be saved."""

    def suggest(self, trial_id):
        return {}

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass


class CountResults(Callback):
    """Appends a line for every result to a file."""

    def __init__(self, path="results.txt"):
        self.path = path

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "failure" in result:  # in place of metrics: settings that cannot train
            return
        with open(self.path, "a") as file:
            file.write(f"{trial.config['number']} {result['epoch']}\n")
