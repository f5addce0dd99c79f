"""What a sweep found, in words and numbers: a table of trials, the finalists, and how sure the result is."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from facelib.config import Settings, TuneSettings, change_settings
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import Estimate, Importance, Verdict, judge
from facelib.tuning.trials import Trial, TrialSegment, best_first, lineage

INPUTS = ("data.dataset", "data.heldout", "model.init_from")  # relative to `output`, unless absolute


def finalists(trials: Sequence[Trial], tune: TuneSettings) -> list[Trial]:
    """The best search trials, and the settings as they are if they took part."""
    chosen = best_first(list(trials), tune.mode)[: tune.finalists]
    base = [t for t in trials if t.label == "base" and t.state == "finished" and t not in chosen]
    return chosen + base


def repeat_scores(trials: Sequence[Trial]) -> dict[int, dict[int, float]]:
    """{search trial: {seed: score}} of the repeats that came to their end."""
    scores: dict[int, dict[int, float]] = {}
    for trial in trials:
        if trial.kind == "repeat" and trial.of is not None:
            found = scores.setdefault(trial.of, {})
            if trial.state == "finished" and trial.score is not None:
                found[trial.seed] = trial.score
    return scores


def winner_of(trials: Mapping[int, Trial], tune: TuneSettings) -> tuple[Trial | None, Verdict | None]:
    """The winning search trial: by the repeats' means if there are repeats, else the best score.

    Returns:
        (trial, verdict); no trial when none has a score, no verdict without repeats.
    """
    ordered = [t for _, t in sorted(trials.items())]
    verdict = judge(repeat_scores(ordered), tune.mode)
    if verdict is not None:
        return trials[verdict.winner], verdict
    best = best_first([t for t in ordered if t.kind == "search"], tune.mode)
    return (best[0] if best else None), None


def best_settings(settings: Settings, winner: Trial, output: str) -> Settings:
    """The winner's settings as a training takes them, with `tune.final` over them.

    Args:
        output: folder of that training; datasets keep their places.
    """
    changes = {**own_changes(settings, winner.parameters, output), **settings.tune.final}
    return change_settings(settings, changes, "tune.final")


def own_changes(settings: Settings, parameters: Mapping[str, Any], output: str) -> dict[str, Any]:
    """What a training with these parameters must be told to run apart from the sweep: inputs stay where they are."""
    changes = {**{name: _lookup(settings, name) for name in INPUTS}, **parameters}
    for name in INPUTS:
        if changes[name]:
            changes[name] = settings.path(changes[name])
    return {**changes, "output": output, "stages": [], "tune": {}}


def _lookup(settings: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def as_yaml(best: Settings, comment: str) -> str:
    """A config file of these settings: what differs from the defaults, below a comment."""
    tree = best.model_dump(mode="json", exclude_defaults=True)
    # Sections without a change are left out.
    tree = {name: value for name, value in tree.items() if value != {}}
    lines = "\n".join(f"# {line}".rstrip() for line in comment.splitlines())
    return f"{lines}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}"


def as_json(
    trials: Mapping[int, Trial], verdict: Verdict | None, winner: Trial | None, found: Importance | None
) -> str:
    """Everything a program may want to know."""
    value = {
        "winner": winner.number if winner else None,
        "parameters": winner.parameters if winner else None,
        "verdict": asdict(verdict) if verdict else None,
        "importance": asdict(found) if found else None,
        "trials": [t.model_dump(mode="json", exclude={"run_id"}) for _, t in sorted(trials.items())],
    }
    return json.dumps(value, indent=1)


def as_text(
    settings: Settings, trials: Mapping[int, Trial], verdict: Verdict | None, winner: Trial, found: Importance | None
) -> str:
    """The report, Markdown."""
    tune = settings.tune
    search = [t for _, t in sorted(trials.items()) if t.kind == "search"]
    space = SearchSpace(tune.space, settings)
    states = {s: sum(t.state == s for t in search) for s in ("finished", "stopped", "failed", "open")}
    counted = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    how = "pbt" if tune.scheduler == "pbt" else f"{tune.search}, scheduler {tune.scheduler}"
    lines = [
        f"# Sweep {settings.name}",
        "",
        f"{len(search)} trials ({counted}) of `train_{tune.method}`, {settings.train.epochs} epochs, {how}; "
        f"compared by `{tune.metric}` ({tune.mode}).",
        "",
        f"**{summary(trials, verdict, winner, tune)}**",
        "",
        *_finalist_table(trials, verdict),
        *_importance_lines(found),
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


def summary(trials: Mapping[int, Trial], verdict: Verdict | None, winner: Trial, tune: TuneSettings) -> str:
    """The result, and how sure it is, in a sentence or two."""
    values = ", ".join(f"{k}={_short(v)}" for k, v in winner.parameters.items()) or "the settings as they are"
    if verdict is None:
        return (
            f"Best: trial {winner.label} with {values}, {tune.metric} {winner.score:.4f}. One training each: "
            "how much of the differences is chance is not known (tune.finalists, tune.finalist_seeds)."
        )
    mean = verdict.finalists[verdict.winner]
    text = f"Best: trial {winner.label} with {values}, {tune.metric} {_interval(mean)} over {mean.count} new seeds."
    clear = [trials[c.other].label for c in verdict.comparisons if c.significant]
    open_ = [trials[c.other].label for c in verdict.comparisons if not c.significant]
    if clear:
        text += f" Better than {_listed(clear)} (p < 0.05, paired by seed, Holm)."
    if open_:
        text += f" The differences to {_listed(open_)} are NOT significant: these seeds do not tell them apart."
    return text


def _finalist_table(trials: Mapping[int, Trial], verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return []
    lines = ["## Finalists", "", "| trial | in the search | mean over new seeds [95 %] | winner − this [95 %] | p |"]
    lines.append("|---|---|---|---|---|")
    compared = {c.other: c for c in verdict.comparisons}
    for number, found in verdict.finalists.items():
        trial, comparison = trials[number], compared.get(number)
        score = "–" if trial.score is None else f"{trial.score:.4f}"
        difference = f"{_interval(comparison.difference, sign=True)} | {comparison.p:.3f}" if comparison else "– | –"
        lines.append(f"| {trial.label} | {score} | {_interval(found)} | {difference} |")
    notes = "A search score is the best of many draws and flatters; the repeats use seeds that the search has not seen."
    return [*lines, "", f"{notes} p: paired t test, Holm-adjusted.", ""]


def _importance_lines(found: Importance | None) -> list[str]:
    if found is None:
        return []
    ranked = sorted(found.shares.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {share:.2f}" for name, share in ranked)
    if found.explained <= 0:
        return ["## Importance", "", "A forest predicts unseen trials no better than their mean: too few trials, or "
                "nothing that was varied mattered.", ""]  # fmt: skip
    return ["## Importance", "", f"{named} (share of the score's variance lost when the field is shuffled; the forest "
            f"explains {found.explained:.2f} of unseen trials' variance).", ""]  # fmt: skip


def _schedule_lines(trials: Mapping[int, Trial], winner: Trial, names: Sequence[str]) -> list[str]:
    """What the winner of a population was trained with, interval by interval."""
    segments = lineage(dict(trials), winner.number)
    if len(segments) < 2:
        return []
    lines = ["## Schedule of the winner", "", f"| up to epoch | {' | '.join(names)} |", "|" + "---|" * (1 + len(names))]
    lines += [f"| {p.stop_epoch} | {' | '.join(_short(p.parameters.get(n, '–')) for n in names)} |" for p in segments]
    return [*lines, "", "`best.yaml` holds the last row; repeats follow the whole schedule.", ""]


def own_segments(segments: Sequence[TrialSegment], number: int) -> list[TrialSegment]:
    """The same schedule for a trial of its own, trained from the beginning."""
    return [
        TrialSegment(
            parameters=p.parameters, stop_epoch=p.stop_epoch, warm_start_from=(number, index - 1) if index else None
        )
        for index, p in enumerate(segments)
    ]


def _interval(found: Estimate, sign: bool = False) -> str:
    number = "+.4f" if sign else ".4f"
    if math.isnan(found.low):
        return "–" if math.isnan(found.mean) else f"{found.mean:{number}}"
    return f"{found.mean:{number}} [{found.low:{number}}, {found.high:{number}}]"


def _listed(names: Sequence[str]) -> str:
    return ("trial " if len(names) == 1 else "trials ") + ", ".join(names)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
