"""How jobs end: exit codes, the last line, what a user sees of an error."""

import json
import signal
import subprocess
import sys

import psutil
import pytest
from mlflow import MlflowClient
from support.commands import CEILING_S, ROOT, environment, run, wait_for

from facelib.data import DatasetError
from ray_jobs.__main__ import job_summaries
from ray_jobs.cli import run_job
from ray_jobs.errors import JobError

# `name` says what the job does: the settings have no better place for it.
JOB = '''"""A job for tests."""
import logging
import time
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

def validate(settings, upcoming=()):
    pass

@job
def evaluate(settings, run):
    if settings.name == "user":
        raise JobError("spam.eggs=3: too many; lower it")
    if settings.name == "sleep":
        print("working", flush=True)
        time.sleep(600)
    logging.getLogger(__name__).info("half way")
    return JobResult(("nothing at all",))

if __name__ == "__main__":
    main(evaluate)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A job file and one tracking store for all tests here."""
    path = tmp_path_factory.mktemp("session")
    (path / "job.py").write_text(JOB)
    return path


@pytest.fixture
def joined(joined):
    """Without figures of the machine too."""
    return [*joined, "--tracking.system_metrics", "false"]


@pytest.fixture
def statuses(folder):
    """Function: the statuses of the runs of an experiment."""

    def find(experiment):
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        found = client.get_experiment_by_name(experiment)
        return [r.info.status for r in client.search_runs([found.experiment_id])] if found else []

    return find


def launch(folder, *arguments, **more):
    return subprocess.Popen(
        [sys.executable, folder / "job.py", *arguments],
        cwd=ROOT,
        env={**environment(folder), "PYTHONPATH": str(ROOT), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whether or not the tests run under nohup
    )


@pytest.mark.slow
def test_a_job_that_did_its_work_says_so_and_exits_zero(folder, joined, statuses):
    job = launch(folder, *joined, "--tracking.experiment", "fine")
    out, err = job.communicate(timeout=CEILING_S)
    assert job.returncode == 0, err
    assert out.strip().splitlines()[-1].startswith("evaluate: ")
    assert out.strip().endswith(" s, wrote nothing at all")
    assert out.strip().splitlines()[-2] == f"MLflow: mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"
    assert statuses("fine") == ["FINISHED"]


def test_a_wrong_flag_exits_two_with_a_suggestion(folder):
    done = run("generate", "--generate.identitys", 3, folder=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "generate: --generate.identitys: unknown setting (did you mean generate.identities?)\n"


def test_help_shows_the_jobs_own_settings(folder):
    done = run("train_ssl", "--help", folder=folder)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "--ssl.temperature" in done.stdout
    assert "--unpg.scale" not in done.stdout
    assert "--unpg.scale" in run("train_ssl", "--help-all", folder=folder).stdout


@pytest.mark.slow
def test_log_records_can_be_json_lines(folder, joined):
    expected = [f"Ray: joining {joined[1]}", "half way"]
    for level, style, lines in (("info", "json", expected), ("info", "text", expected), ("error", "text", [])):
        job = launch(folder, *joined, "--log-level", level, f"--log-format={style}")
        errors = job.communicate(timeout=CEILING_S)[1].strip().splitlines()
        assert job.returncode == 0, errors
        assert [json.loads(line)["message"] if style == "json" else line for line in errors] == lines


@pytest.mark.parametrize("flags", [("--log-level", "loud"), ("--log-format", "xml")])
def test_unknown_logging_flags_exit_two(folder, flags):
    done = run("generate", *flags, folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"generate: {flags[0]}: {flags[1]!r} is not one of ")


def test_a_missing_dataset_is_one_line_before_ray_starts(folder):
    done = run("train_ssl", "--output", folder / "nowhere", "--ray.address", "127.0.0.1:9", folder=folder)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines == [f"train_ssl: {folder}/nowhere/faces is no face dataset (it has no manifest.json)"]
    assert "wrote" not in done.stdout


@pytest.mark.slow
def test_a_traceback_is_there_for_who_asks(folder, joined, statuses):
    arguments = [*joined, "--name", "user", "--tracking.experiment", "failing"]
    plain = launch(folder, *arguments)
    error = plain.communicate(timeout=CEILING_S)[1]
    full = launch(folder, *arguments, FACELIB_TRACEBACK="1")
    trace = full.communicate(timeout=CEILING_S)[1]
    assert (plain.returncode, full.returncode) == (1, 1)
    assert error.splitlines()[-1] == "evaluate: spam.eggs=3: too many; lower it"
    assert "Traceback" not in error
    assert "Traceback" in trace
    assert "in evaluate" in trace
    assert "spam.eggs=3" in trace
    assert statuses("failing") == ["FAILED"]  # one run: the second try took it up


@pytest.mark.slow
def test_a_terminated_job_does_not_leave_its_run_open(folder, joined, statuses):
    job = launch(folder, *joined, "--name", "sleep", "--tracking.experiment", "terminated")
    assert job.stdout.readline() == "working\n"
    assert statuses("terminated") == ["RUNNING"]
    job.terminate()
    error = job.communicate(timeout=CEILING_S)[1]
    assert job.returncode == 143, error
    wait_for(lambda: statuses("terminated") == ["FAILED"], what="the run's end")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_ray_starts_ends_the_run_and_leaves_no_process(folder, statuses, number):
    experiment = f"early {number.name}"
    job = launch(folder, "--tracking.experiment", experiment, "--tracking.system_metrics", "false", STARTED_BY="test")
    assert job.stderr.readline() == "Ray: starting on this machine\n"
    wait_for(lambda: psutil.Process(job.pid).children(recursive=True), what="Ray's first process")
    started = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(number)
    error = job.communicate(timeout=CEILING_S)[1]
    assert job.returncode == 128 + number, error
    assert error.splitlines()[-1] == f"evaluate: stopped by {number.name}; the same command continues"
    wait_for(lambda: not any(p.is_running() for p in started), what="the end of Ray's processes")
    assert statuses(experiment) == ["FAILED"]


def test_nohup_is_respected(folder, statuses):
    """A job that ignores SIGHUP is not stopped by a terminal that closes."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom ray_jobs.cli import StopSignals\n"
    code += "import os; StopSignals(); os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.stdout == "alive\n"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (JobError("no"), 1), (DatasetError("no"), 1), (SystemExit(0), 0)]
)
def test_how_work_ends_is_the_exit_code(folder, joined, error, code, capsys):
    def work(settings, run):
        raise error

    before = signal.getsignal(signal.SIGTERM)
    uri = f"sqlite:///{folder}/mlflow.db"
    try:
        with pytest.raises(SystemExit) as left:
            run_job("evaluate", work, "", [*joined, "--tracking.uri", uri])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == code
    assert "wrote" not in capsys.readouterr().out


def test_a_bug_is_not_hidden(folder, joined):
    def work(settings, run):
        return {}["surprise"]

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyError, match="surprise"):
            run_job("evaluate", work, "", [*joined, "--tracking.uri", f"sqlite:///{folder}/mlflow.db"])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("job", sorted(job_summaries()))
def test_help_imports_nothing_heavy(job):
    """Neither do errors of settings, which are found by the same parser."""
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('ray_jobs.{job}', run_name='__main__')\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "heavy = {'ray', 'torch', 'mlflow', 'pyarrow', 'cv2', 'tensorflow', 'pandas', 'sklearn', 'rich', 'numpy'}\n"
        "print(*heavy & {name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert "settings of the run:" in done.stdout
