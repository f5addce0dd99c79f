"""The tutorial's code, run from the page in one process on a Ray that runs already, at a tiny size."""

import json
import re
from pathlib import Path

import pytest
from support.tracking import new_store

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
# What the page sets -> what the test sets instead; each stands on the page exactly once.
TINY = {
    '"generate.identities=600",': '"generate.identities=32", "generate.images_per_identity=3", "generate.actors=1",',
    '"generate.heldout_identities=100",': '"generate.heldout_identities=8", "ssl.queue_size=256",',
    '"train.epochs=8",': '"train.epochs=2", "train.workers=1", "train.batch_size=32", "tracking.system_metrics=false", '
    '"model.name=iresnet", "model.options={layers: [1, 1, 1, 1], width: 0.25, stem_stride: 2}",',
    '"evaluate.pairs=1000",': '"evaluate.pairs=60", "evaluate.bootstrap=50", "data.window_row_groups=4",',
    '"train.epochs": 3, "train.batch_size": 128': '"train.epochs": 2, "train.batch_size": 32',
}


def tutorial_code() -> list[str]:
    """The page's Python blocks in order, made small."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    text = "\0".join(blocks)
    for written, tiny in TINY.items():
        assert text.count(written) == 1, f"{PAGE.name} has {written!r} {text.count(written)} times"
        text = text.replace(written, tiny)
    return text.split("\0")


def test_the_blocks_compile():
    for code in tutorial_code():
        compile(code, str(PAGE), "exec")


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch, capsys, ray_cluster, in_process):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    scope: dict = {"__name__": "tutorial"}
    for code in tutorial_code():
        exec(compile(code, str(PAGE), "exec"), scope)
    assert scope["sheet"].is_file()
    assert list(scope["curve"]["epoch"])[-1] == 2
    output = tmp_path / "runs" / "tutorial"
    assert (output / "unpg" / "model.pt").is_file()
    reports = json.loads((output / "evaluation" / "results.json").read_text())["reports"]
    assert len(reports) >= 2
    assert "unpg: ROC-AUC" in capsys.readouterr().out
