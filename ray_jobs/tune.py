"""Sweep: search any of the training's settings with Ray Tune; each trial is a training like any other.

Reads the datasets that training reads, writes <output>/sweep: report.md, results.json, plots, best.yaml (a config
file for train_ssl or train_unpg), and a folder for each trial. Run the same command after an interruption to
continue; ask for more trials or finalists to add them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.config import Settings, SettingsError, change_settings
from ray_jobs import train_ssl, train_unpg
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.tracking import Run
    from facelib.tuning.statistics import ComparableTrials, FinalistComparison, Importance
    from facelib.tuning.trials import Trial
    from ray_jobs.tuning.state import Sweep

BEST_NAME = "best.yaml"


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check the search space, its fields and its corners, each as the training job checks its settings.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: a dataset is missing, or the sweep's folder is in use or was made with other settings.
    """
    from facelib.tuning.space import SearchSpace, check_space
    from facelib.tuning.validation import check_fields, check_search, check_tune
    from ray_jobs.tuning.spec import sweep_spec
    from ray_jobs.tuning.validation import check_components
    from ray_jobs.validation import check_output, find_training_faces

    check_training = {"ssl": train_ssl.check_settings, "unpg": train_unpg.check_settings}[settings.tune.method]
    if settings.data.stream:
        raise SettingsError("data.stream: trials are compared on one stored dataset; make it with ray_jobs.generate")
    check_tune(settings)
    space = SearchSpace(settings.tune.space, settings)
    check_fields(space, settings)
    check_search(space, settings)
    check_components(space, settings)
    check_training(settings, upcoming)
    check_space(space, lambda corner: check_training(corner, upcoming))
    change_settings(settings, settings.tune.final, "tune.final")
    faces = find_training_faces(settings, upcoming)
    check_output(settings.path(settings.tune.folder), sweep_spec(settings, faces) if faces else None)


@job
def tune(settings: Settings, run: Run) -> JobResult:
    """Search, train the finalists again with other seeds, choose the best, write the report."""
    from facelib.data.lock import directory_lock
    from facelib.tuning.optuna_search import export_study
    from facelib.tuning.report import finalists, winner_of
    from ray_jobs.datasets.dataset_report import log_training_sets
    from ray_jobs.tuning.driver import run_trials
    from ray_jobs.tuning.spec import sweep_folder
    from ray_jobs.tuning.state import Sweep

    folder = sweep_folder(settings)
    log_training_sets(settings, run)
    with directory_lock(folder, "tune"), Sweep(settings, run) as sweep:
        run_trials(sweep, "search")
        if settings.tune.finalists and settings.tune.finalist_seeds:
            for seed in range(1, settings.tune.finalist_seeds + 1):
                for trial in finalists(sweep.store.of_kind("search"), settings.tune):
                    sweep.add("repeat", trial, settings.seed + seed)
            run_trials(sweep, "repeat")
        winner, comparison = winner_of(sweep.store.trials, settings.tune)
        if winner is None:
            raise JobError(f"{folder.uri}: no trial has a score; see the reasons in {folder.uri}/trials")
        for seed in range(settings.tune.final_seeds):
            sweep.add("final", winner, settings.seed + settings.tune.finalist_seeds + 1 + seed)
        run_trials(sweep, "final")
        write_report(sweep, winner, comparison)
        if settings.tune.export_optuna:
            path = settings.path(settings.tune.export_optuna)
            export_study(settings.tune, sweep.space, sweep.store.of_kind("search"), path, settings.name)
            print(f"exported to Optuna: optuna-dashboard sqlite:///{path}", flush=True)
        if left_out := sweep.left_out():
            print(left_out, flush=True)
    history = [
        trial.model_dump(exclude={"segments", "reports"}) | trial.parameters for trial in sweep.store.trials.values()
    ]
    return JobResult(
        (f"{folder.uri}/report.md", f"{folder.uri}/{BEST_NAME}"), {"score": float(winner.score or 0)}, history
    )


def write_report(sweep: Sweep, winner: Trial, comparison: FinalistComparison | None) -> None:
    """Write the report, best.yaml and the plots to the sweep's folder and its MLflow run."""
    from facelib.tuning.report import render_json, render_markdown, render_settings, summary
    from facelib.tuning.statistics import sweep_importance
    from facelib.tuning.trial_settings import best_settings

    settings, trials = sweep.settings, sweep.store.trials
    search = sweep.store.of_kind("search")
    use_last = settings.train.selection == "last"
    fields, compared = sweep_importance(sweep.space, search, settings.tune.mode, use_last)
    result = summary(trials, comparison, winner, settings.tune)
    left_out = f"\n{sentence}\n" if (sentence := sweep.left_out()) else ""
    best = best_settings(settings, winner, f"{sweep.folder.uri}/best")
    comment = f"Found by the sweep {settings.name} ({sweep.folder.uri}).\n{result}\n" + (
        f"Train with it: python -m ray_jobs.train_{settings.tune.method} --config {sweep.folder.uri}/{BEST_NAME}"
    )
    texts = {
        "report.md": render_markdown(settings, trials, comparison, winner, fields) + left_out,
        "results.json": render_json(trials, comparison, winner, fields),
        BEST_NAME: render_settings(best, comment),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in texts.items():
            (Path(temporary) / name).write_text(text, encoding="utf-8")
        drawn = _draw(sweep, Path(temporary), fields, compared, comparison)
        for path in [*(Path(temporary) / name for name in texts), *drawn]:
            sweep.run.log_file(path, "plots" if path in drawn else "")
            sweep.folder.write(path.name, path.read_bytes())
    if comparison is not None:
        mean = comparison.finalists[comparison.winner]
        sweep.run.log_metrics({"winner_mean": mean.mean, "winner_low": mean.low, "winner_high": mean.high})
    print(result, flush=True)


def _draw(
    sweep: Sweep,
    folder: Path,
    fields: Importance | None,
    compared: ComparableTrials,
    comparison: FinalistComparison | None,
) -> list[Path]:
    """Draw the plots that the sweep has data for."""
    from facelib.plots import tuning as plots
    from facelib.tuning.report import repeat_scores

    tune, metric, space = sweep.tune, sweep.tune.metric, sweep.space
    search = sweep.store.of_kind("search")
    scored = [t for t in search if t.score is not None and t.parameters]
    drawn = [plots.plot_history(search, folder / "history.png", metric, tune.mode)]
    if scored:
        drawn.append(plots.plot_parallel(space, scored, folder / "parallel.png", metric, fields))
    if fields is not None:
        drawn.append(plots.plot_importance(fields, folder / "importance.png", metric))
    axes = plots.heatmap_fields(space, tune.heatmap, fields)
    if axes is not None and compared.trials:
        file = folder / "heatmap.png"
        drawn.append(plots.plot_heatmap(space, compared.trials, axes, file, metric, basis=compared.basis))
    if comparison is not None:
        labels = {t.number: t.label for t in search}
        scores = repeat_scores([*sweep.store.trials.values()])
        drawn.append(plots.plot_finalists(comparison, scores, folder / "finalists.png", metric, labels))
    if tune.scheduler == "pbt":
        members = [t for t in search if len(t.segments) > 1]
        drawn.append(plots.plot_schedules(members, space.fields, folder / "schedules.png"))
    return drawn


if __name__ == "__main__":
    main(tune)
