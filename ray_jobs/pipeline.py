"""Stages one after the other: faces, training, evaluation, in one go.

Stages that are done already are recognized by what they wrote and skipped; the first failure stops the pipeline with
its reason. Ends with the time of each stage and the list of what was written.
"""

import time

from rich.console import Console
from rich.table import Table

from facelib.config import Settings, SettingsError, StageSettings, change_settings
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.embed import embed
from ray_jobs.errors import JobError, user_error
from ray_jobs.evaluate import evaluate
from ray_jobs.export import export
from ray_jobs.generate import generate
from ray_jobs.import_data import import_data
from ray_jobs.inspect_dataset import inspect_dataset
from ray_jobs.progress import format_seconds
from ray_jobs.train_ssl import train_ssl
from ray_jobs.train_unpg import train_unpg
from ray_jobs.tune import tune
from ray_jobs.validation import CHECKPOINTS, preflight

STAGES = {
    "generate": generate,
    "import_data": import_data,
    "inspect_dataset": inspect_dataset,
    "train_ssl": train_ssl,
    "train_unpg": train_unpg,
    "tune": tune,
    "evaluate": evaluate,
    "embed": embed,
    "export": export,
}


def pipeline(settings: Settings, run: Run) -> str:
    """Run `settings.stages` in order, each as a child of this run."""
    if not settings.stages:
        raise JobError("stages: empty, so there is nothing to do; list them in the --config file")
    # All stages are checked before the first one starts.
    staged = [(stage, stage_settings(settings, stage)) for stage in settings.stages]
    coming: list[str] = []
    for stage, own in staged:
        try:
            preflight(own, stage.job, coming)
        except SettingsError as error:
            raise JobError(f"stage {stage.name or stage.job}: {error}") from None
        if stage.job in CHECKPOINTS:
            coming.append(own.path(CHECKPOINTS[stage.job]))
    table = Table(title=f"{settings.name}: stages")
    for column in ("stage", "time", "wrote"):
        table.add_column(column, overflow="fold")
    for number, (stage, own) in enumerate(staged, 1):
        name = stage.name or stage.job
        print(f"── {number}/{len(staged)} {name} ──", flush=True)
        started = time.monotonic()
        try:
            with Run.open(own, stage.job, name=name, parent=run.run_id) as child:
                written = STAGES[stage.job](own, child)
        except Exception as error:
            found = user_error(error)
            if found is not None:
                raise JobError(f"stage {number}, {name}, failed: {found}") from error
            raise
        seconds = time.monotonic() - started
        run.log_metrics({f"stage_seconds/{number}_{name}": seconds})
        table.add_row(name, format_seconds(seconds), str(written))
    # Logs have no width of their own; 80 columns would break paths.
    Console(width=None if Console().is_terminal else 200).print(table)
    return settings.path("")


def stage_settings(settings: Settings, stage: StageSettings) -> Settings:
    """Settings of one stage: the pipeline's, with what the stage sets on top."""
    return change_settings(settings, stage.set, f"stage {stage.name or stage.job}")


if __name__ == "__main__":
    run_job("pipeline", pipeline, __doc__)
