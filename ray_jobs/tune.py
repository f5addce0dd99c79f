"""Sweep: Ray Tune over any of the training's settings, each trial a training by the same engine.

Reads the datasets that training reads, writes <output>/sweep: report.md, results.json, pictures, best.yaml (which
train_ssl or train_unpg takes as it is), and a folder for each trial. Run it again after an interruption and it
continues; ask for more trials or finalists and it adds them.
"""

import tempfile
from pathlib import Path

from facelib.config import Settings
from facelib.data.lock import directory_lock
from facelib.plots import tuning as plots
from facelib.tracking import Run
from facelib.tuning.report import (
    as_json,
    as_text,
    as_yaml,
    best_settings,
    finalists,
    repeat_scores,
    summary,
    winner_of,
)
from facelib.tuning.statistics import Importance, Verdict, importance
from facelib.tuning.trials import Trial
from ray_jobs.cli import run_job
from ray_jobs.errors import JobError
from ray_jobs.tuning.driver import Sweep, sweep_folder
from ray_jobs.tuning.trials import run_trials

BEST_NAME = "best.yaml"


def tune(settings: Settings, run: Run) -> str:
    """Search, train the finalists again with other seeds, choose, report; return what was written."""
    folder = sweep_folder(settings)
    with directory_lock(folder, "tune"), Sweep(settings, run) as sweep:
        run_trials(sweep, "search")
        chosen = finalists(sweep.store.of_kind("search"), settings.tune)
        if not chosen:
            raise JobError(f"{folder.uri}: no trial has a score; see the reasons in {folder.uri}/trials")
        if settings.tune.finalists and settings.tune.finalist_seeds:
            for seed in range(1, settings.tune.finalist_seeds + 1):
                for trial in chosen:
                    sweep.add("repeat", trial, settings.seed + seed)
            run_trials(sweep, "repeat")
        winner, verdict = winner_of(sweep.store.trials, settings.tune)
        if winner is None:
            raise JobError(f"{folder.uri}: no trial has a score")
        for seed in range(settings.tune.final_seeds):
            sweep.add("final", winner, settings.seed + settings.tune.finalist_seeds + 1 + seed)
        run_trials(sweep, "final")
        write_report(sweep, winner, verdict)
    return f"{folder.uri}/report.md, {folder.uri}/{BEST_NAME}"


def write_report(sweep: Sweep, winner: Trial, verdict: Verdict | None) -> None:
    """The report, best.yaml and the pictures, into the sweep's folder and its run."""
    settings, trials = sweep.settings, sweep.store.trials
    search = sweep.store.of_kind("search")
    scored = [t for t in search if t.score is not None and t.parameters and t.state != "failed"]
    found = importance(sweep.space, [t.parameters for t in scored], [float(t.score or 0) for t in scored])
    said = summary(trials, verdict, winner, settings.tune)
    best = best_settings(settings, winner, f"{sweep.folder.uri}/best")
    comment = f"Found by the sweep {settings.name} ({sweep.folder.uri}).\n{said}\n" + (
        f"Train with it: python -m ray_jobs.train_{settings.tune.method} --config {sweep.folder.uri}/{BEST_NAME}"
    )
    texts = {
        "report.md": as_text(settings, trials, verdict, winner, found),
        "results.json": as_json(trials, verdict, winner, found),
        BEST_NAME: as_yaml(best, comment),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in texts.items():
            (Path(temporary) / name).write_text(text, encoding="utf-8")
        pictures = _draw(sweep, Path(temporary), found, verdict)
        for path in [*(Path(temporary) / name for name in texts), *pictures]:
            sweep.run.log_file(path, "pictures" if path in pictures else "")
            sweep.folder.write(path.name, path.read_bytes())
    if verdict is not None:
        mean = verdict.finalists[verdict.winner]
        sweep.run.log_metrics({"winner_mean": mean.mean, "winner_low": mean.low, "winner_high": mean.high})
    print(said, flush=True)


def _draw(sweep: Sweep, folder: Path, found: Importance | None, verdict: Verdict | None) -> list[Path]:
    """All pictures there is something to draw for."""
    tune, metric, space = sweep.tune, sweep.tune.metric, sweep.space
    search = sweep.store.of_kind("search")
    scored = [t for t in search if t.score is not None and t.parameters]
    drawn = [plots.plot_history(search, folder / "history.png", metric, tune.mode)]
    if scored:
        drawn.append(plots.plot_parallel(space, scored, folder / "parallel.png", metric, found))
    if found is not None:
        drawn.append(plots.plot_importance(found, folder / "importance.png", metric, len(scored)))
    fields = plots.heatmap_fields(space, tune.heatmap, found)
    if fields is not None and scored:
        drawn.append(plots.plot_heatmap(space, scored, fields, folder / "heatmap.png", metric))
    if verdict is not None:
        labels = {t.number: t.label for t in search}
        scores = repeat_scores([*sweep.store.trials.values()])
        drawn.append(plots.plot_finalists(verdict, scores, folder / "finalists.png", metric, labels))
    if tune.scheduler == "pbt":
        members = [t for t in search if len(t.segments) > 1]
        drawn.append(plots.plot_schedules(members, space.fields, folder / "schedules.png"))
    return drawn


if __name__ == "__main__":
    run_job("tune", tune, __doc__)
