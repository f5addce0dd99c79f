"""The generator in docs/extending.md is a whole one: taken from the page and run."""

import re
from pathlib import Path

import numpy as np
import torch

from facelib.synthesis import FaceGenerator, build_generator, generator_version

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"


def test_the_page_s_generator_draws(tmp_path):
    section = PAGE.read_text().partition("## A generator")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    exec(compile(code, str(PAGE), "exec"), {})
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(512, 3).state_dict(), tmp_path / "weights.pt")
    generator = build_generator("my_diffusion", weights=str(tmp_path / "weights.pt"))
    assert isinstance(generator, FaceGenerator)
    assert generator_version(generator) == 1
    identities, indices = np.array([4, 4, 9]), np.array([0, 1, 0])
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, indices)
    images = generator.render(codes, factors)
    assert (images.shape, images.dtype) == ((3, 64, 64, 3), np.uint8)
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(generator.render(codes[::-1], factors[::-1])[::-1], images)
