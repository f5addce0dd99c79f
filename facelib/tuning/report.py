"""The result of a sweep: the winner, the finalists with confidence intervals, a table of all trials."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from facelib.config import Settings, TuneSettings
from facelib.config.components import class_name
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import MIN_SEEDS, Estimate, FinalistComparison, Importance, compare_finalists
from facelib.tuning.trials import Trial, best_first, lineage


def finalists(trials: Sequence[Trial], tune: TuneSettings) -> list[Trial]:
    """The best search trials, and the base trial if there is one."""
    chosen = best_first(trials, tune.mode)[: tune.finalists]
    base = [t for t in trials if t.is_base and t.state == "finished" and t not in chosen]
    return chosen + base


def repeat_scores(trials: Sequence[Trial]) -> dict[int, dict[int, float]]:
    """{search trial: {seed: score}} of the finished repeats."""
    scores: dict[int, dict[int, float]] = {}
    for trial in trials:
        if trial.kind == "repeat" and trial.source_trial is not None:
            by_seed = scores.setdefault(trial.source_trial, {})
            if trial.state == "finished" and trial.score is not None:
                by_seed[trial.seed] = trial.score
    return scores


def winner_of(trials: Mapping[int, Trial], tune: TuneSettings) -> tuple[Trial | None, FinalistComparison | None]:
    """The winning search trial: by the mean over repeats if there are repeats, else by the search score.

    Returns:
        (trial, comparison); no trial when none has a score, no comparison without repeats.
    """
    ordered = [t for _, t in sorted(trials.items())]
    comparison = compare_finalists(repeat_scores(ordered), tune.mode)
    if comparison is not None:
        return trials[comparison.winner], comparison
    best = best_first([t for t in ordered if t.kind == "search"], tune.mode)
    return (best[0] if best else None), None


def render_settings(best: Settings, comment: str) -> str:
    """A config file of the settings that differ from the defaults, below a comment."""
    tree = best.model_dump(mode="json", exclude_defaults=True)
    tree = {name: value for name, value in tree.items() if value != {}}
    lines = "\n".join(f"# {line}".rstrip() for line in comment.splitlines())
    return f"{lines}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}"


def render_json(
    trials: Mapping[int, Trial],
    comparison: FinalistComparison | None,
    winner: Trial | None,
    importance: Importance | None,
) -> str:
    """The machine-readable result: winner, comparison of finalists, importance of fields, all trials."""
    value = {
        "winner": winner.number if winner else None,
        "parameters": winner.parameters if winner else None,
        "finalists": asdict(comparison) if comparison else None,
        "importance": asdict(importance) if importance else None,
        # Epochs are in the trials' files.
        "trials": [
            json.loads(t.model_dump_json(exclude={"run_id": True, "reports": {"__all__": {"metrics"}}}))
            for _, t in sorted(trials.items())
        ],
    }
    return json.dumps(value, indent=1)


def render_markdown(
    settings: Settings,
    trials: Mapping[int, Trial],
    comparison: FinalistComparison | None,
    winner: Trial,
    importance: Importance | None,
) -> str:
    """The report as Markdown."""
    tune = settings.tune
    search = [t for _, t in sorted(trials.items()) if t.kind == "search"]
    space = SearchSpace(tune.space, settings)
    states = {s: sum(t.state == s for t in search) for s in ("finished", "stopped", "failed", "open")}
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    scheduler = class_name(tune.scheduler)
    algorithm = "pbt" if scheduler == "pbt" else f"{class_name(tune.search)} search, scheduler {scheduler}"
    lines = [
        f"# Sweep {settings.name}",
        "",
        f"{len(search)} trials ({counts}) of `train_{tune.method}`, {settings.train.epochs} epochs, {algorithm}; "
        f"ranked by `{tune.metric}` ({tune.mode}).",
        "",
        f"**{summary(trials, comparison, winner, tune)}**",
        "",
        *_finalist_table(trials, comparison),
        *_importance_lines(importance),
        *_schedule_lines(trials, winner, space.fields),
        "## Trials",
        "",
        f"| trial | state | {tune.metric} | epoch | {' | '.join(space.fields)} | seconds |",
        "|" + "---|" * (5 + len(space.fields)),
    ]
    for trial in [*best_first(search, tune.mode), *(t for t in search if t.score is None or t.state == "failed")]:
        score = "–" if trial.score is None else f"{trial.score:.4f}"
        values = " | ".join(_short(trial.parameters.get(name, "–")) for name in space.fields)
        state = f"{trial.state}: {trial.reason}" if trial.state == "failed" else trial.state
        lines.append(f"| {trial.label} | {state} | {score} | {trial.epoch or '–'} | {values} | {trial.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def summary(
    trials: Mapping[int, Trial], comparison: FinalistComparison | None, winner: Trial, tune: TuneSettings
) -> str:
    """The winner and the significance of its lead, in a sentence or two."""
    values = ", ".join(f"{k}={_short(v)}" for k, v in winner.parameters.items()) or "the unchanged settings"
    if comparison is None:
        return (
            f"Best: trial {winner.label} with {values}, {tune.metric} {winner.score:.4f}. One seed per trial, "
            "so the significance of the differences is unknown (set tune.finalists and tune.finalist_seeds)."
        )
    mean = comparison.finalists[comparison.winner]
    text = f"Best: trial {winner.label} with {values}, {tune.metric} {_interval(mean)} over {mean.count} new seeds."
    beaten = [trials[c.other].label for c in comparison.comparisons if c.significant]
    undecided = [trials[c.other].label for c in comparison.comparisons if not c.significant]
    if beaten:
        text += (
            f" Significantly better than {_listed(beaten)} (p < 0.05 over all pairs of finalists, Tukey's test with "
            "seeds as blocks)."
        )
    if undecided:
        text += f" NOT significantly different from {_listed(undecided)} with these seeds."
        if comparison.seeds < MIN_SEEDS:
            text += f" (All finalists share {comparison.seeds} seeds; the test needs {MIN_SEEDS}.)"
    return text


def _finalist_table(trials: Mapping[int, Trial], comparison: FinalistComparison | None) -> list[str]:
    if comparison is None:
        return []
    lines = ["## Finalists", "", "| trial | search score | mean over new seeds [95 %] | winner − trial [95 %] | p |"]
    lines.append("|---|---|---|---|---|")
    by_trial = {c.other: c for c in comparison.comparisons}
    for number, mean in comparison.finalists.items():
        trial, pair = trials[number], by_trial.get(number)
        score = "–" if trial.score is None else f"{trial.score:.4f}"
        difference = f"{_interval(pair.difference, sign=True)} | {_p(pair.p)}" if pair else "– | –"
        lines.append(f"| {trial.label} | {score} | {_interval(mean)} | {difference} |")
    note = (
        "Search scores of finalists are biased upward (the best of many); repeats use seeds not used in the search. "
        "The winner is chosen by these repeats: its differences and p (Tukey's test, seeds as blocks) hold for the "
        "largest difference of any two finalists; its own mean is still biased upward a little."
    )
    return [*lines, "", note, ""]


def _importance_lines(importance: Importance | None) -> list[str]:
    if importance is None:
        return []
    ranked = sorted(importance.shares.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {share:.2f}" for name, share in ranked)
    if importance.explained <= 0:
        text = (
            "A random forest predicts held-out trials no better than their mean: too few trials, or the searched "
            "fields have no effect."
        )
    else:
        text = (
            f"{shares} (permutation importance as a share of the scores' variance; the forest explains "
            f"{importance.explained:.2f} of the variance of held-out trials)."
        )
    return ["## Importance", "", f"Rests on {importance.basis}. {text}", ""]


def _schedule_lines(trials: Mapping[int, Trial], winner: Trial, names: Sequence[str]) -> list[str]:
    """Parameters of the winner of a population in each interval."""
    segments = lineage(dict(trials), winner.number)
    if len(segments) < 2:
        return []
    lines = ["## Schedule of the winner", "", f"| up to epoch | {' | '.join(names)} |", "|" + "---|" * (1 + len(names))]
    lines += [f"| {s.stop_epoch} | {' | '.join(_short(s.parameters.get(n, '–')) for n in names)} |" for s in segments]
    return [*lines, "", "`best.yaml` has the values of the last row; repeats follow the full schedule.", ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _interval(estimate: Estimate, sign: bool = False) -> str:
    number = "+.4f" if sign else ".4f"
    if math.isnan(estimate.low):
        return "–" if math.isnan(estimate.mean) else f"{estimate.mean:{number}}"
    return f"{estimate.mean:{number}} [{estimate.low:{number}}, {estimate.high:{number}}]"


def _listed(names: Sequence[str]) -> str:
    return ("trial " if len(names) == 1 else "trials ") + ", ".join(names)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
