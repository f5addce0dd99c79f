"""The console command `facelib`, also `python -m ray_jobs`: `facelib generate …` is `python -m ray_jobs.generate …`.

A job is a file of this folder that can be run as a module. The list of jobs is read from the files without importing
them, so that `facelib --help` needs neither Ray nor PyTorch.
"""

import ast
import difflib
import importlib.util
import os
import runpy
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from facelib import __version__

QUICKSTART = (
    "Run the shipped recipe `quickstart`: faces, training, a sweep, whitening, evaluation. --smoke: a tiny one."
)
REQUIRED = ("mlflow", "ray", "rich")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job that the first argument names, with the other arguments as its own.

    Args:
        argv: the arguments after the command's name; by default those of this process.

    Raises:
        SystemExit: status 0 after `--help` and `--version`, 2 for an unknown job or a missing package, else the job's.
    """
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(describe_jobs(shutil.get_terminal_size().columns))
        return
    if name == "--version":
        print(f"facelib {__version__}")
        return
    jobs = [*job_summaries(), "quickstart"]
    job = name.replace("-", "_")
    if job not in jobs:
        similar = difflib.get_close_matches(job, jobs, n=1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        exit_with(f"unknown job {name!r}: {hint}`facelib --help` lists the jobs")
    missing = [package for package in REQUIRED if importlib.util.find_spec(package) is None]
    if missing:
        exit_with(f"{name} needs {', '.join(missing)}: pip install 'facelib[ray]'")
    if job == "quickstart":
        job, arguments = "pipeline", quickstart_arguments(arguments)
    run_module(f"ray_jobs.{job}", arguments)


def job_summaries() -> dict[str, str]:
    """Name → first line of the docstring, for every job, sorted by name. Imports none of them."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in module.body):
            summaries[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return summaries


def describe_jobs(columns: int) -> str:
    """The text of `facelib --help`, wrapped to `columns` characters."""
    summaries = {**job_summaries(), "quickstart": QUICKSTART}
    indent = max(map(len, summaries)) + 4
    width = max(columns, indent + 30)
    lines = [
        "usage: facelib JOB [--config FILE.yaml] [--section.field VALUE …]",
        "       facelib JOB --help | facelib --help | facelib --version",
        "",
        "jobs:",
    ]
    for name, summary in summaries.items():
        prefix = f"  {name}".ljust(indent)
        lines.append(textwrap.fill(summary, width, initial_indent=prefix, subsequent_indent=" " * indent))
    return "\n".join([*lines, "", "`facelib JOB --help` lists the settings of a job."])


def quickstart_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments of the pipeline: the shipped recipe, then what else was given, without `--smoke`."""
    from facelib.config import find_config

    recipe = "smoke" if "--smoke" in arguments else "quickstart"
    return ["--config", str(find_config(recipe)), *(word for word in arguments if word != "--smoke")]


def run_module(module: str, arguments: Sequence[str]) -> None:
    """`python -m module arguments…` in this process: same `sys.argv`, and the working directory on `sys.path`."""
    sys.argv = [module, *arguments]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def exit_with(message: str) -> None:
    """End the process with status 2 and a message on stderr."""
    print(f"facelib: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
