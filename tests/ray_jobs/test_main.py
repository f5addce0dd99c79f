"""The console command `facelib`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import CEILING_S

from ray_jobs.__main__ import describe_jobs, job_summaries, main, quickstart_arguments

ROOT = Path(__file__).parents[2]
JOBS = [
    "embed",
    "evaluate",
    "export",
    "export_images",
    "generate",
    "import_data",
    "inspect_dataset",
    "pipeline",
    "train_ssl",
    "train_unpg",
    "tune",
    "whiten",
]


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ray_jobs", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=CEILING_S,
    )


def test_help_lists_every_job_with_its_summary():
    done = command("--help", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for job in JOBS:
        assert f"  {job} " in done.stdout
    assert job_summaries()["generate"] in " ".join(done.stdout.split())
    assert command(COLUMNS="200").stdout == done.stdout


def test_jobs_are_the_modules_that_run_as_commands():
    summaries = job_summaries()
    assert list(summaries) == JOBS
    assert all(summaries.values())


@pytest.mark.parametrize("columns", [20, 60, 80, 120])
def test_help_fits_the_terminal(columns):
    indent = len("  inspect_dataset  ")
    jobs = describe_jobs(columns).split("jobs:")[1].rpartition("\n\n")[0]
    assert max(map(len, jobs.splitlines())) <= max(columns, indent + 30)


def test_version_and_help_import_nothing_heavy():
    code = (
        "import sys\n"
        "from ray_jobs.__main__ import main\n"
        "main(['--version']); main(['--help'])\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    version, *_, loaded = done.stdout.splitlines()
    assert version == "facelib 0.1.0"
    heavy = {"numpy", "torch", "ray", "mlflow", "tensorflow", "pyarrow", "pydantic", "cv2", "rich", "yaml"}
    assert not heavy & set(loaded.split())


def test_a_job_gets_its_arguments_and_its_exit_status_is_returned():
    for name in ("train_ssl", "train-ssl"):
        done = command(name, "--train.epoch", "3")
        assert done.returncode == 2
        assert "train_ssl: --train.epoch: unknown setting" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train_sll", "facelib: unknown job 'train_sll': did you mean train_ssl? `facelib --help` lists the jobs"),
        ("nothing", "facelib: unknown job 'nothing': `facelib --help` lists the jobs"),
        ("cli", "facelib: unknown job 'cli': "),
        ("__main__", "facelib: unknown job '__main__': "),
    ],
)
def test_an_unknown_job_is_rejected_with_a_suggestion(name, message, capsys):
    with pytest.raises(SystemExit) as error:
        main([name])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_job_without_its_packages_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("ray_jobs.__main__.REQUIRED", ("rich", "no_such_package"))
    with pytest.raises(SystemExit) as error:
        main(["generate"])
    assert error.value.code == 2
    assert capsys.readouterr().err == "facelib: generate needs no_such_package: pip install 'facelib[ray]'\n"


@pytest.mark.parametrize(("arguments", "recipe"), [([], "quickstart"), (["--smoke"], "smoke")])
def test_quickstart_is_the_pipeline_with_a_shipped_recipe(arguments, recipe):
    flag, path, *rest = quickstart_arguments([*arguments, "--seed", "3"])
    assert (flag, Path(path).name, rest) == ("--config", f"{recipe}.yaml", ["--seed", "3"])
    assert Path(path).is_file()
