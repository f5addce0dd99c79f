"""The package: metadata, what the wheel holds, and the library without its optional packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from support.commands import CEILING_S

import facelib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = (
    "boto3",
    "matplotlib",
    "mlflow",
    "mtcnn",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "PIL",
    "pytorch_metric_learning",
    "ray",
    "retinaface",
    "rich",
    "sklearn",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves files beside its sources."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("facelib", "ray_jobs", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    done = subprocess.run([*pip, source], capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_recipe(wheel):
    names = set(wheel.namelist())
    sources = {str(p.relative_to(ROOT)) for package in ("facelib", "ray_jobs") for p in (ROOT / package).rglob("*.py")}
    recipes = {f"facelib_configs/{p.name}" for p in (ROOT / "configs").glob("*.yaml")}
    assert sources | recipes | {"facelib/py.typed", "ray_jobs/py.typed", "facelib_configs/__init__.py"} <= names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"facelib", "ray_jobs", "facelib_configs", f"{stem(wheel)}.dist-info"}


def test_the_wheel_says_what_it_is(wheel):
    metadata = Parser().parsestr(wheel.read(f"{stem(wheel)}.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == ("facelib", "0.1.0", "Apache-2.0")
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    for field in ("Summary", "Author", "Keywords", "Classifier", "Project-URL"):
        assert metadata[field], field
    entry_points = wheel.read(f"{stem(wheel)}.dist-info/entry_points.txt").decode()
    assert "facelib = ray_jobs.__main__:main" in entry_points


def test_classifiers_agree_with_the_supported_python_versions():
    minors = sorted(int(m[1]) for c in PROJECT["classifiers"] if (m := re.fullmatch(r".* :: 3\.(\d+)", c)))
    first, end = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    assert minors == list(range(first, end))


def test_optional_packages_are_in_extras_and_all_has_every_extra_for_users():
    extras = PROJECT["optional-dependencies"]
    core = " ".join(PROJECT["dependencies"])
    assert not [name for name in ("ray", "mlflow", "onnx", "matplotlib", "rich") if name in core]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("facelib[").removesuffix("]").split(",")) == set(extras) - {"all", "dev", "docs"}


@pytest.mark.slow
def test_the_library_works_without_optional_packages():
    """Every module of facelib imports, and every public name resolves, where none of the extras is installed."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"for name in {OPTIONAL!r}: sys.modules[name] = None\n"
        "import facelib\n"
        "for module in pkgutil.walk_packages(facelib.__path__, 'facelib.'):\n"
        "    loaded = importlib.import_module(module.name)\n"
        "    for name in getattr(loaded, '__all__', ()): getattr(loaded, name)\n"
        "import torch\n"
        "from facelib.models import build_backbone\n"
        "from facelib.losses import CosFace, UnifiedNegativeLoss\n"
        "from facelib.synthesis import build_generator\n"
        "embeddings = build_backbone('mobilefacenet', embedding_size=64)(torch.zeros(2, 3, 112, 112))\n"
        "labels = torch.tensor([0, 1])\n"
        "UnifiedNegativeLoss()(CosFace(64, 2)(embeddings, labels), embeddings, labels).backward()\n"
        "build_generator('morphable')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr


# Call → the extra that it needs.
CALLS = {
    "from facelib.alignment import build_detector; build_detector('retinaface')": "align",
    "from facelib.alignment import build_detector; build_detector('mtcnn')": "align",
    "from facelib.inspection import compare_table; compare_table({})": "ray",
    "from facelib.plots import plot_training_curves; plot_training_curves([{'epoch': 1, 'loss': 1}], 'x.png')": "plots",
    "from facelib.export import OnnxEmbedder; OnnxEmbedder('model.onnx')": "export",
    "from facelib.losses import triplet_loss; triplet_loss(embeddings, labels)": "metric-learning",
}


@pytest.fixture(scope="module")
def said():
    """Call → its error in a process without optional packages; one process for all, because it imports PyTorch."""
    code = (
        "import json, sys\n"
        f"for name in {OPTIONAL!r}: sys.modules[name] = None\n"
        "import torch\n"
        "names = {'embeddings': torch.eye(4), 'labels': torch.tensor([0, 0, 1, 1])}\n"
        "said = {}\n"
        f"for call in {list(CALLS)!r}:\n"
        "    try: exec(call, dict(names))\n"
        "    except Exception as error: said[call] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps(said))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.slow
def test_what_needs_an_extra_says_which(said, call):
    assert said[call].startswith("ImportError: ")
    assert f"pip install 'facelib[{CALLS[call]}]'" in said[call]


def test_hooks_and_workflows_run_what_make_lint_and_make_test_run():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["entry"].split()[0] for hook in hooks[0]["hooks"]} == {"ruff", "codespell", "mypy"}
    workflows = {p.stem: yaml.safe_load(p.read_text())["jobs"] for p in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(workflows) == {"lint", "tests", "lowest_versions"}
    steps = [step.get("run", "") for jobs in workflows.values() for job in jobs.values() for step in job["steps"]]
    assert {"make lint", "make test", "make test-fast"} <= set(steps)


def test_changelog_and_citation_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (facelib.__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert f"\n## [{facelib.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def stem(wheel):
    return "-".join(Path(wheel.filename).name.split("-")[:2])


def test_make_installs_again_only_when_what_it_installs_from_has_other_contents(tmp_path):
    files = ("Makefile", "pyproject.toml", "setup.py", "constraints.txt")
    for name in files:
        shutil.copy(ROOT / name, tmp_path)

    def stamp():
        """The stamp that make would leave behind; empty: nothing to install."""
        done = subprocess.run(["make", "-n", "ui"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return next((line.split()[1] for line in done.stdout.splitlines() if line.startswith("touch .venv/")), "")

    first = stamp()
    assert first
    (tmp_path / ".venv").mkdir()
    (tmp_path / first).touch()
    assert stamp() == ""
    for name in files:
        os.utime(tmp_path / name, (2e9, 2e9))  # as after `git pull`
    assert stamp() == ""
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("# another\n")
    assert stamp() not in ("", first)
