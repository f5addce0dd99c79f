"""Saved as the scalar tensor that it was when it was a buffer."""

import pytest
import torch
from torch import nn

from facelib.utils.step_counter import StepCounter


class Counted(StepCounter):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize("wrap", [lambda module: module, nn.Sequential], ids=["itself", "inside another"])
def test_steps_are_saved_and_loaded(wrap):
    module = Counted()
    module.steps += 3
    state = wrap(module).state_dict()
    (name,) = (key for key in state if key.endswith("steps"))
    assert torch.equal(state[name], torch.tensor(3))  # int64, no dimensions
    loaded = Counted()
    assert str(wrap(loaded).load_state_dict(state)) == "<All keys matched successfully>"
    assert loaded.steps == 3
    assert type(loaded.steps) is int
    assert name in state


def test_a_state_without_steps_is_named():
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "steps"'):
        Counted().load_state_dict({"weight": torch.ones(2)})
    module = Counted()
    module.load_state_dict({"weight": torch.ones(2)}, strict=False)
    assert module.steps == 0
