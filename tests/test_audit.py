"""The audit of `make lint`."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_version_and_a_missing_pin_are_told_apart():
    audit = load()
    wanted = audit.pinned("# comment\nray==2.60.0\nPyYAML==6.0.3  # why\nast_serialize==0.1\n")
    assert wanted == {"ray": "2.60.0", "pyyaml": "6.0.3", "ast-serialize": "0.1"}
    installed = {"ray": "2.59.0", "pyyaml": "6.0.3", "stranger": "1.0", "pip": "25.0"}
    assert audit.compare(installed, wanted) == (["ray 2.59.0, constraints.txt says 2.60.0"], ["stranger 1.0"])


def test_every_direct_dependency_is_pinned():
    audit = load()
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {audit.normal(re.match(r"[\w.-]+", line)[0]) for line in asked}
    assert names <= set(audit.pinned((ROOT / "constraints.txt").read_text()))
