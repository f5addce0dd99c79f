"""Several jobs one after the other, in one command: faces, training, a sweep, whitening, evaluation.

Finished stages are recognized by what they wrote and skipped; the first failure stops the pipeline. At the end a table
lists the time of each stage and what it wrote.
"""

import importlib
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from facelib.config import Settings, SettingsError, StageSettings, change_settings
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError, user_error
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check all stages, each with its own settings, before the first one starts.

    Raises:
        SettingsError: names the stage and the setting.
    """
    if not settings.stages:
        raise SettingsError("stages: empty, so there is nothing to do; list them in the --config file")
    written = set(upcoming)
    for stage in settings.stages:
        own = stage_settings(settings, stage)
        try:
            importlib.import_module(f"ray_jobs.{stage.job}").validate(own, written)
        except SettingsError as error:
            raise SettingsError(f"stage {_name(stage)}: {error}") from None
        except Exception as error:
            shown = user_error(error)
            if shown is None:
                raise
            raise JobError(f"stage {_name(stage)}: {shown}") from error
        written.update(own.path(name) for name in written_by(stage.job, own))


def written_by(job: str, settings: Settings) -> list[str]:
    """Folders that a job writes and later stages may read; relative to `output`, or absolute."""
    data = settings.data
    return {
        "generate": [*([] if data.stream else [data.dataset]), *([data.heldout] if data.heldout else [])],
        "import_data": [data.dataset],
        "export_images": [settings.export_images.folder],
        "train_ssl": ["ssl"],
        "train_unpg": ["unpg"],
        "tune": [settings.tune.folder],
        "whiten": [settings.whiten.target(model) for model in settings.whiten.models],
        "embed": [settings.embed.folder],
        "export": [settings.export.folder],
    }.get(job, [])


@job
def pipeline(settings: Settings, run: "Run") -> JobResult:
    """Run `settings.stages` in order, each as a child of this run."""
    from rich.table import Table

    from ray_jobs.progress import console, format_seconds

    table = Table(title=f"{settings.name}: stages")
    for column in ("stage", "time", "wrote"):
        table.add_column(column, overflow="fold")
    history: list[dict[str, Any]] = []
    for number, stage in enumerate(settings.stages, 1):
        print(f"── {number}/{len(settings.stages)} {_name(stage)} ──", flush=True)
        started = time.monotonic()
        result = _run_stage(stage_settings(settings, stage), stage, number, run)
        seconds = time.monotonic() - started
        run.log_metrics({f"stage_seconds/{number}_{_name(stage)}": seconds})
        table.add_row(_name(stage), format_seconds(seconds), str(result))
        history.append({"stage": _name(stage), "seconds": seconds, "wrote": str(result), **result.metrics})
    console().print(table)
    return JobResult((settings.path(""),), {f"{row['stage']}/seconds": row["seconds"] for row in history}, history)


def stage_settings(settings: Settings, stage: StageSettings) -> Settings:
    """Settings of one stage: the pipeline's, with what the stage sets on top."""
    return change_settings(settings, stage.set, f"stage {_name(stage)}")


def _run_stage(settings: Settings, stage: StageSettings, number: int, parent: "Run") -> JobResult:
    from facelib.tracking import Run

    module = importlib.import_module(f"ray_jobs.{stage.job}")
    work, name = getattr(module, stage.job), f"{settings.name}/{_name(stage)}"
    try:
        with Run.open(settings, stage.job, name, parent.run_id, about=module.__doc__ or "") as run:
            return work(settings, run)  # type: ignore[no-any-return]
    except Exception as error:
        shown = user_error(error)
        if shown is None:
            raise
        raise JobError(f"stage {number}, {_name(stage)}, failed: {shown}") from error


def _name(stage: StageSettings) -> str:
    return stage.name or stage.job


if __name__ == "__main__":
    main(pipeline)
