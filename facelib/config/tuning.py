"""Settings of hyperparameter sweeps."""

from typing import Annotated, Any, Literal

from pydantic import Field

from facelib.config.components import class_or
from facelib.config.fields import Count, Index, NonNegative, Options, Section


class TuneSettings(Section):
    """Hyperparameter sweep over other settings, by Ray Tune."""

    method: Literal["ssl", "unpg"] = Field("ssl", description="training method: ssl (train_ssl) or unpg (train_unpg)")
    folder: str = Field("sweep", description="output folder of trials and results; relative to `output`")
    space: Options = Field(
        default_factory=dict,
        description="search space: {section.field: {uniform: [low, high]}}; also choice, grid, loguniform, integer, "
        "with `step` and `log`; `when` makes a dimension conditional on the values of another",
    )
    search: Annotated[str | dict[str, Any], class_or("random", "grid", "optuna")] = Field(
        "optuna",
        description="search algorithm: random, grid (every combination), optuna, or {class: package.module:Class, "
        "options: {...}}, a searcher of Ray Tune",
    )
    sampler: Annotated[str | dict[str, Any], class_or("tpe", "gp", "cmaes", "qmc", "brute_force")] = Field(
        "tpe",
        description="optuna: sampler tpe (multivariate), gp, cmaes, qmc or brute_force; {class: ..., options: {...}} "
        "with one of these words or optuna.samplers:Class",
    )
    points_to_evaluate: list[Options] = Field(
        [], description="values of the searched settings that the first trials train with, {section.field: value} each"
    )
    trials: Count = Field(16, description="number of trials (grid: upper limit; pbt: population size)")
    startup_trials: Count = Field(8, description="random trials before an Optuna sampler's model is used")
    grid_points: int = Field(3, ge=2, le=1000, description="grid search: values per continuous dimension (2 or more)")
    scheduler: Annotated[str | dict[str, Any], class_or("asha", "median", "pbt", "none")] = Field(
        "asha",
        description="early stopping: asha, median, none, or {class: package.module:Class, options: {...}}, a scheduler "
        "of Ray Tune; or pbt, population-based training",
    )
    metric: str = Field("heldout/auc", description="metric that trials are compared by, reported after each epoch")
    mode: Literal["max", "min"] = Field("max", description="maximize or minimize the metric")
    grace_epochs: Count = Field(1, description="asha, median: epochs before a trial may be stopped")
    reduction: float = Field(
        3,
        gt=1,
        le=1000,
        description="asha: reduction factor; one in this many trials continues past each rung (1..1000)",
    )
    median_trials: Count = Field(
        4, description="median: trials that must have reached an epoch before a trial can be stopped there"
    )
    callbacks: list[Annotated[str | dict[str, Any], class_or()]] = Field(
        [],
        description="callbacks of Ray Tune, such as loggers: package.module:Class, or {class: ..., options: {...}}",
    )
    export_optuna: str = Field(
        "", description="SQLite file to export the search to, as a study of Optuna; relative to `output`"
    )
    stop: dict[str, float] = Field(
        default_factory=dict,
        description="{metric: value}: a trial has finished once it reports at least this value of any of them",
    )
    time_budget: NonNegative = Field(
        0, description="seconds of the search, interruptions not counted, after which it ends (0: no limit)"
    )
    interval: Count = Field(1, description="pbt: epochs between perturbations of the population")
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="pbt: fraction of the population replaced at each perturbation (0..0.5)"
    )
    in_process: bool = Field(
        False, description="train inside the trial's own process; faster for small trials with one worker"
    )
    concurrency: Index = Field(0, description="trials at a time (0: as many as fit on the cluster)")
    max_failures: Index = Field(
        2, description="restarts after a trial's process died before the trial counts as failed"
    )
    base: bool = Field(
        True, description="include the unchanged settings in the comparison, as trial 0 and as a finalist"
    )
    finalists: Index = Field(3, description="best trials that are retrained with other seeds")
    finalist_seeds: Index = Field(3, description="seeds per finalist (0: no retraining; otherwise 3 or more)")
    final_seeds: Index = Field(
        0, description="trainings of the winner with the settings of best.yaml after the sweep, one seed each"
    )
    final: Options = Field(
        default_factory=dict,
        description="settings by dotted name that override the winner's in best.yaml and in the final trainings",
    )
    heatmap: list[str] = Field(
        [],
        description="the two searched settings of the heat map; empty: augmentation strength if searched, else the "
        "most important two",
    )
