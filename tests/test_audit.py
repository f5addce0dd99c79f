"""The audit of `make lint`."""

import importlib.util
import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_different_version_and_a_missing_pin_are_reported_separately():
    audit = load()
    pins = audit.pinned("# comment\nray==2.60.0\nPyYAML==6.0.3  # why\nast_serialize==0.1\n")
    assert pins == {"ray": "2.60.0", "pyyaml": "6.0.3", "ast-serialize": "0.1"}
    installed = {"ray": "2.59.0", "pyyaml": "6.0.3", "stranger": "1.0", "pip": "25.0"}
    assert audit.compare(installed, pins) == (["ray 2.59.0, constraints.txt says 2.60.0"], ["stranger 1.0"])


def test_requirements_of_a_package_that_only_contains_weights_are_no_conflict():
    lines = [
        "random-face 2021.7.21.1 requires gdown, which is not installed.",
        "ray 2.60.0 requires click, which is not",
    ]
    assert load().real_conflicts(lines) == lines[1:]


def test_every_direct_dependency_is_pinned():
    audit = load()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {audit.normalize(re.match(r"[\w.-]+", line)[0]) for line in required} - {"facelib"}
    assert names <= set(audit.pinned((ROOT / "constraints.txt").read_text()))
