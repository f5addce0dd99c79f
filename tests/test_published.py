"""The commands of docs/published.md, which reproduce published rows, run in order at a tiny size.

Commands, paths below /data and the recipes' settings are the page's; TINY makes networks, data and machines small. The
READMEs' own commands are the page's last table: each names the job here that the page's commands have run.
"""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import ROOT
from support.datasets import pattern
from support.docs import blocks
from support.published_files import write_unpg, write_usynthface
from support.releases import write_ijb
from support.tracking import new_store

from facelib.config import Settings, change_settings, load_settings
from facelib.data import encode_image
from facelib.sources import write_bin, write_recordio
from facelib.synthesis import build_generator
from ray_jobs.training.methods import METHODS
from ray_jobs.training.optim import build_optimizer

PAGE = "published.md"
NETWORK = {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}
ACTORS = ("generate", "align", "import_data", "export_images", "evaluate")
TINY = {
    "tracking.system_metrics": False,
    **{f"{section}.actors": 1 for section in ACTORS}, **{f"{section}.cpus_per_actor": 0.25 for section in ACTORS},
    # DiscoFaceGAN's faces need its weights; a random network's are not detected.
    "generate.generator": "morphable", "generate.options": {}, "generate.gpus_per_actor": 0,
    "generate.identities": 16, "generate.images_per_identity": 3, "generate.identities_per_part": 8,
    "import_data.images_per_part": 12, "model.name": "iresnet", "model.embedding_size": 16, "ssl.queue_size": 16,
    "train.workers": 1, "train.use_gpu": False, "train.batch_size": 8, "train.threads": 1,
    "train.precision": "float32",  # Half precision is for GPUs: a CPU takes a second for a step.
    "train.cpus_per_worker": 0.5, "data.readers": 1, "data.cpus_per_reader": 0.1, "data.window_row_groups": 2,
    "evaluate.bootstrap": 20, "evaluate.batch_size": 32, "evaluate.figures": False,
}  # fmt: skip
BINS = ("lfw", "agedb_30", "cfp_fp", "calfw", "cplfw")


def commands() -> list[list[str]]:
    """The page's commands as words: `python -m ray_jobs.<job> flags…`."""
    lines = "\n".join(blocks(PAGE, "sh")).splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def rows() -> Iterator[tuple[str, str]]:
    """(config, flags) of each published row."""
    for section in re.split(r"^## ", (ROOT / "docs" / PAGE).read_text(encoding="utf-8"), flags=re.M)[1:]:
        configs = re.findall(r"--config (\S+)", section)
        for line in section.splitlines():
            if flags := re.search(r"\| `(--[^`]+)` \|$", line):
                yield configs[0], flags[1]


def tiny_settings(words: list[str], data: Path) -> Settings:
    """Settings of a job's flags, made tiny; what is below / is below `data`."""
    at = words.index("--config")
    settings = load_settings(words[at + 1], words[:at] + words[at + 2 :])
    train = settings.train
    more = {
        "model.options": {**settings.model.options, **NETWORK},
        # One epoch, after those of a file that goes on.
        "train.epochs": {"checkpoint_040.pth": 41, "": 1}.get(Path(train.continue_from).name, 21),
        "train.warmup_epochs": min(settings.train.warmup_epochs, 0.5),
        "data.identities": min(settings.data.identities, 12),
    }
    tree = json.dumps(change_settings(settings, {**TINY, **more}, "test").model_dump(mode="json"))
    return Settings.model_validate_json(re.sub(r"(?<![\w/])/(data|weights)\b", rf"{data}/\1", tree))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What the page calls /data: verification sets, MS1MV2, K-FACE, IJB, published files."""
    folder = tmp_path_factory.mktemp("published")
    root = folder / "data"
    (root / "faces_emore").mkdir(parents=True)
    for number, name in enumerate(BINS):
        sides = [(p, 0, p + 50 * (p % 2), 1) for p in range(100 * number, 100 * number + 20)]
        images = [encode_image(pattern(*side)) for a, i, b, j in sides for side in ((a, i), (b, j))]
        write_bin(root / "faces_emore" / f"{name}.bin", images, [a == b for a, _, b, _ in sides])
    people = [(n, [encode_image(pattern(n, i)) for i in range(3)]) for n in range(16)]
    write_recordio(root / "faces_emore" / "train.rec", root / "faces_emore" / "train.idx", people)
    write_kface(root / "KFACE")
    for release in ("ijbb", "ijbc"):
        write_ijb(root / release.upper(), people=4, subset=release)
    for kind in ("usynthface", "unpg"):
        (root / kind).mkdir()
    write_usynthface(root / "usynthface", untrained("ssl", "usynthface", 12, epoch=40))
    for name, config, classes, head in (
        ("face.r100.cos.unpg.wisk1.5", "unpg_ms1mv2", 16, "cosface"),
        ("kface.r34.arc.unpg.wisk1.0", "unpg_kface", 8, "arcface"),
    ):
        write_unpg(root / "unpg" / f"{name}.pt", untrained("unpg", config, classes, epoch=20), head)
    return folder


def untrained(method: str, config: str, classes: int, epoch: int) -> dict:
    """State of a training of the recipe's settings, with random momentum."""
    settings = tiny_settings(["--config", str(ROOT / "configs" / f"{config}.yaml")], Path("/nowhere"))
    network = METHODS[method](settings, classes)
    trained = [p for group in build_optimizer(network.parameters(), settings.train).param_groups
               for p in group["params"]]  # fmt: skip
    momentum = {index: {"momentum_buffer": torch.zeros_like(p)} for index, p in enumerate(trained)}
    return {"method": network.state_dict(), "optimizer": {"state": momentum}, "epoch": epoch}


def write_kface(folder: Path) -> None:
    """Ten identities, two of them for tests, in two lights; pairs of the test identities in all four lists."""
    generator, people = build_generator("morphable", max_yaw_degrees=10.0), np.arange(10)
    codes = generator.identity_codes(0, people)
    names = [f"1906{person:04d}" for person in people]
    for light, name in enumerate(("L1", "L2")):
        faces = generator.render(codes, generator.image_factors(0, people, np.full(10, light)))
        for person, face in zip(names, faces, strict=True):
            (folder / "High" / person / "S001" / name / "E01").mkdir(parents=True)
            (folder / "High" / person / "S001" / name / "E01" / "C7.jpg").write_bytes(encode_image(face))
    (folder / "kface-test-identity30.txt").write_text("".join(f"{name}\n" for name in names[8:]))
    images = [f"{name}/S001/{light}/E01/C7.jpg" for name in names[8:] for light in ("L1", "L2")]
    pairs = [f"{a} {b} {int(a[:8] == b[:8])}\n" for i, a in enumerate(images) for b in images[i + 1 :]]
    for level in range(1, 5):
        (folder / f"kface.Q{level}.txt").write_text("".join(pairs))


def test_every_row_passes_the_validation_of_its_training(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    found = list(rows())
    assert len(found) == 3 + 6 + 2
    for config, flags in found:
        job = importlib.import_module("ray_jobs.train_ssl" if "usynthface" in config else "ray_jobs.train_unpg")
        settings = tiny_settings(["--config", config, *shlex.split(flags)], data)
        job.validate(settings, {settings.path("").rstrip("/")})


@pytest.mark.slow
def test_the_commands_run(data, tmp_path, monkeypatch, ray_cluster, in_process):
    """In the page's order: each finds what those before it have written."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for python, m, module, *flags in commands():
        assert (python, m) == ("python", "-m")
        job = importlib.import_module(module)
        getattr(job, module.partition(".")[2])(tiny_settings(flags, data))
    runs = tmp_path / "runs"
    for output, sets, models, rules in (
        ("usynthface_100k", set(BINS), 1, "usynthface"),
        ("usynthface_files", set(BINS), 1, "usynthface"),
        ("unpg_ms1mv2", {*BINS, "ijbb", "ijbc"}, 2, "unpg"),
        ("unpg_kface", {"q1", "q2", "q3", "q4"}, 2, "unpg"),
    ):
        text = (runs / output / "evaluation" / "results.json").read_text()
        reports = json.loads(text)["reports"]
        assert len(reports) == models
        assert all(set(by_set) == sets for by_set in reports.values())
        assert f'"published": "{rules}"' in text
    assert last_epoch(runs / "usynthface_100k" / "ssl") == 1
    assert last_epoch(runs / "usynthface_onward" / "ssl") == 41
    assert last_epoch(runs / "unpg_onward" / "unpg") == 21


def last_epoch(folder: Path) -> int:
    return int(json.loads((folder / "history.json").read_text())[-1]["epoch"])


def test_the_readmes_commands_have_counterparts():
    """The last table names jobs that the page runs, for each command of the two READMEs."""
    table = (ROOT / "docs" / PAGE).read_text(encoding="utf-8").partition("## The commands of the READMEs")[2]
    named = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| `")]
    theirs = [names[0].split()[0] for names in named]
    assert sorted(set(theirs)) == ["align_imgs.sh", "align_kfaces.py", "eval.py", "evaluation.py", "generate_imgs.sh",
                                   "rec2image.py", "train.py", "train.sh"]  # fmt: skip
    run = {words[2] for words in commands()}
    for names in named:
        jobs = [name for name in names if name.startswith("ray_jobs.")]
        assert jobs
        assert jobs[0] in run
