"""The rules that sets are evaluated by: the settings, and with `evaluate.published` those of a publication."""

import contextlib
from collections.abc import Mapping
from typing import Any

from facelib.config import Settings, SettingsError
from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import EvaluationSet, SetSpec
from facelib.evaluation.published import PUBLISHED, PublishedRules

DEFAULTS = {"accuracy_rule": "kfold", "far_rule": "strict", "flip": "sum"}


def evaluation_options(settings: Settings) -> EvaluationOptions:
    """What is asked of every protocol.

    Raises:
        SettingsError: a setting contradicts the publication.
    """
    cfg = settings.evaluate
    return EvaluationOptions(
        fars=tuple(cfg.fars),
        rule=_rule(settings, "far_rule"),
        bootstrap=cfg.bootstrap,
        seed=settings.seed,
        ranks=tuple(cfg.ranks),
        fpirs=tuple(cfg.fpirs),
        accuracy_rule=_rule(settings, "accuracy_rule"),
    )


def set_defaults(settings: Settings, spec: SetSpec) -> dict[str, Any]:
    """Options of a set where its specification says nothing.

    Raises:
        SettingsError: `evaluate.flip` contradicts the publication.
    """
    cfg = settings.evaluate
    published = _options(settings, spec.protocol)
    flip = DEFAULTS["flip"] if cfg.flip == "auto" else cfg.flip
    if cfg.flip not in ("auto", published.get("flip", cfg.flip)):
        raise SettingsError(
            f"evaluate.flip: {cfg.flip}, but by evaluate.published={cfg.published} set {spec.name} has "
            f"flip={published['flip']}; leave evaluate.flip at auto, or write the set as "
            f"{spec.name}={spec.protocol}(flip={cfg.flip}):…"
        )
    return {"pairs": cfg.pairs, "seed": settings.seed, "flip": flip, **published}


def set_rules(settings: Settings, spec: SetSpec, opened: EvaluationSet, options: EvaluationOptions) -> dict[str, Any]:
    """The rules that an opened set is evaluated by, for reports.

    Returns:
        Rules by name; `published`, the source they are those of (None: of none); `overrides`, what the source has
        where an option of the set says otherwise.
    """
    rules = opened.rules(options)
    theirs = _options(settings, spec.protocol)
    overrides = {name: value for name, value in theirs.items() if rules.get(name, value) != value}
    return {**rules, "published": settings.evaluate.published if theirs else None, "overrides": overrides}


def describe_rules(rules: Mapping[str, Any]) -> str:
    """One line of what `set_rules` returns."""
    texts = [f"{name} {_text(value)}" for name, value in rules.items() if name not in ("published", "overrides")]
    if rules["published"]:
        changed = ", ".join(f"{name} {_text(value)}" for name, value in rules["overrides"].items())
        texts.append(f"as published by {rules['published']}" + (f" except {changed} there" if changed else ""))
    return ", ".join(texts)


def model_normalization(settings: Settings, path: str) -> str:
    """`model.normalization`; where that is auto and a checkpoint does not state its own, that of the publication."""
    given, published = settings.model.normalization, _published(settings)
    if given != "auto" or published is None:
        return given
    from facelib.models import read_checkpoint

    with contextlib.suppress(FileNotFoundError):  # An error where the model is read.
        return published.normalization if read_checkpoint(path).normalization is None else given
    return given


def _rule(settings: Settings, name: str) -> Any:
    """Value of a setting that may be `auto`."""
    cfg = settings.evaluate
    value, published = getattr(cfg, name), getattr(_published(settings), name, None)
    if value == "auto":
        return published or DEFAULTS[name]
    if published not in (None, value):
        raise SettingsError(
            f"evaluate.{name}: {value}, but evaluate.published={cfg.published} has {published}; leave evaluate.{name} "
            "at auto, or evaluate.published at none"
        )
    return value


def _published(settings: Settings) -> PublishedRules | None:
    return PUBLISHED.get(settings.evaluate.published)


def _options(settings: Settings, protocol: str) -> Mapping[str, Any]:
    published = _published(settings)
    return published.protocols.get(protocol, {}) if published else {}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
