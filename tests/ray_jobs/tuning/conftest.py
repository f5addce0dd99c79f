"""Classes of a user's own, found as through PYTHONPATH."""

from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "support" / "plugins"


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))
