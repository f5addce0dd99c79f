"""The README's library example runs as printed, in ten lines."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_example_computes_a_loss():
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    scope: dict = {}
    exec(compile(code, str(README), "exec"), scope)
    assert scope["query"].shape == (16, 3, 112, 112)
    assert torch.isfinite(scope["loss"])
