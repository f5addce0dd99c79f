"""Checks of a sweep's settings: which fields can be searched, and why the others cannot."""

from facelib.config import Settings, SettingsError
from facelib.config.components import class_name
from facelib.tuning.optuna_search import propose
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import MIN_SEEDS

_SECTIONS = {
    "generate": "trials share one dataset: make several and search data.dataset",
    "align": "trials share one dataset: make several and search data.dataset",
    "evaluate": "it would change how trials are compared",
    "tracking": "it does not change the training",
    "ray": "it does not change the training",
    "tune": "it configures the sweep itself",
    "stages": "it configures the pipeline",
    "name": "it does not change the training",
    "output": "every trial has its own folder",
    "seed": "seeds are varied by the repeats (tune.finalist_seeds)",
}
_OPERATIONAL = (
    "workers", "min_workers", "cpus_per_worker", "threads", "use_gpu", "gpus_per_worker", "max_failures",
    "keep_checkpoints", "checkpoint_every", "checkpoint_seconds", "log_every", "compile", "selection", "sets",
    "evaluate_every", "evaluate_every_steps", "patience", "tf32", "cudnn_benchmark",
    "gradient_compression",
)  # fmt: skip
# Fields that can change during a training: those that affect neither shapes nor the number of steps in an epoch.
_CHANGEABLE = (
    "augment.", "train.learning_rate", "train.clip_norm", "ssl.queue_size", "ssl.queue_policy", "ssl.momentum",
    "ssl.temperature", "ssl.margin", "unpg.wisk", "unpg.margin", "unpg.scale",
)  # fmt: skip


def check_fields(space: SearchSpace, settings: Settings) -> None:
    """Reject fields that cannot be searched or would have no effect.

    Raises:
        SettingsError: names the field and the reason.
    """
    tune = settings.tune
    other = "unpg" if tune.method == "ssl" else "ssl"
    for name in space.fields:
        section, _, key = name.partition(".")
        reason = _SECTIONS.get(section)
        if section == "train" and key.split(".")[0] in _OPERATIONAL:
            reason = "it decides how trials run or are evaluated, not what they learn"
        if section == other:
            reason = f"it has no effect on tune.method={tune.method}"
        if name == "train.epochs" and tune.scheduler != "none":
            reason = f"tune.scheduler={class_name(tune.scheduler)} compares trials at equal epochs; use scheduler: none"
        if name == "data.stream":
            reason = "trials share one stored dataset"
        if name == tune.method:
            reason = "search its fields individually"
        if tune.scheduler == "pbt" and not name.startswith(_CHANGEABLE):
            reason = f"it cannot change during a training; with tune.scheduler=pbt search {', '.join(_CHANGEABLE)}"
        if reason:
            raise SettingsError(f"tune.space.{name}: cannot be searched: {reason}")


def check_search(space: SearchSpace, settings: Settings) -> None:
    """Check the first points and the sampler of Optuna.

    Raises:
        SettingsError: names the field and what is wrong.
    """
    tune = settings.tune
    for index, point in enumerate(tune.points_to_evaluate):
        try:
            space.checked(point)
        except ValueError as error:
            raise SettingsError(f"tune.points_to_evaluate[{index}]: {error}") from None
    if tune.search == "optuna" and tune.scheduler != "pbt":
        propose(tune, space, [], settings.seed)


def check_tune(settings: Settings) -> None:
    """Check the fields of `tune` against each other and against the training's.

    Raises:
        SettingsError: names the fields and what to do.
    """
    tune, train = settings.tune, settings.train
    if tune.in_process and train.workers != 1:
        raise SettingsError(f"tune.in_process: needs train.workers=1, not {train.workers}")
    if settings.data.stream:
        raise SettingsError("data.stream: trials share one stored dataset; set it to false")
    if tune.metric.startswith("heldout/") and train.selection != "heldout":
        raise SettingsError(
            f"tune.metric: {tune.metric} is measured only with train.selection=heldout, not {train.selection}"
        )
    if train.evaluate_every > 1 and "/" in tune.metric and tune.scheduler != "none":
        raise SettingsError(
            f"train.evaluate_every: {train.evaluate_every}, but tune.scheduler={class_name(tune.scheduler)} needs "
            f"{tune.metric} after every epoch: set it to 1"
        )
    if 0 < tune.finalist_seeds < MIN_SEEDS:
        raise SettingsError(
            f"tune.finalist_seeds: {tune.finalist_seeds} cannot tell a difference from chance; use 0 (no repeats) or "
            f"at least {MIN_SEEDS}"
        )
    if tune.grace_epochs > train.epochs:
        raise SettingsError(f"tune.grace_epochs: {tune.grace_epochs} is more than train.epochs={train.epochs}")
    if tune.scheduler == "pbt" and tune.trials < 2:
        raise SettingsError("tune.trials: a population needs at least 2 members")
    if tune.scheduler == "pbt" and tune.stop:
        raise SettingsError("tune.stop: a population is trained to the end; remove it, or use another tune.scheduler")
    for name in tune.heatmap:
        if name not in tune.space:
            raise SettingsError(f"tune.heatmap: {name} is not searched; searched fields: {', '.join(tune.space)}")
    if tune.scheduler == "pbt" and isinstance(tune.search, dict):
        raise SettingsError("tune.search: a population does not use a searcher: its first members are random")
    if tune.sampler != "tpe" and (tune.search != "optuna" or tune.scheduler == "pbt"):
        raise SettingsError("tune.sampler: only tune.search=optuna has a sampler")
    if len(tune.heatmap) not in (0, 2):
        raise SettingsError(f"tune.heatmap: needs exactly two searched fields, or none, got {len(tune.heatmap)}")
