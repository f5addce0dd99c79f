"""A count of steps that is known to the host and saved with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class StepCounter(nn.Module):
    """Base of modules whose random draws depend on the step: `steps`, a plain integer.

    In the state_dict it is a scalar tensor of that name. As a buffer it would lie on the module's device, where a read
    makes the host wait for all work before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        steps = state_dict.pop(f"{prefix}steps", None)
        if steps is not None:
            self.steps = int(steps)
        elif strict:
            missing_keys.append(f"{prefix}steps")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
