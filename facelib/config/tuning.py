"""Settings of a sweep: what is searched, how, and how sure its result must be."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import Count, Index, Section


class TuneSettings(Section):
    """A sweep over other settings (`ray_jobs.tune`)."""

    method: Literal["ssl", "unpg"] = Field("ssl", description="training that is searched: train_ssl or train_unpg")
    folder: str = Field("sweep", description="where trials and results go; relative to `output`")
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="what is searched: {section.field: {uniform: [low, high]}}; also choice, grid, loguniform, "
        "integer; with `when` only for some values of another field",
    )
    search: Literal["random", "grid", "optuna"] = Field(
        "optuna", description="random, every combination (grid), or Optuna's multivariate TPE"
    )
    trials: Count = Field(16, description="trials (grid: at most this many; pbt: size of the population)")
    startup_trials: Count = Field(8, description="random trials before Optuna's TPE begins")
    grid_points: int = Field(3, ge=2, description="values a range is cut into for a grid search (2 or more)")
    scheduler: Literal["none", "asha", "median", "pbt"] = Field(
        "asha", description="early stopping (asha, median), population-based training (pbt), or none"
    )
    metric: str = Field("heldout/auc", description="metric of an epoch that trials are compared by")
    mode: Literal["max", "min"] = Field("max", description="whether the metric is better when larger or smaller")
    grace_epochs: Count = Field(1, description="epochs before a trial may be stopped (asha, median)")
    reduction: float = Field(3, gt=1, description="asha goes on with one in so many trials at each rung (above 1)")
    median_trials: Count = Field(4, description="trials that must have come as far before the median rule stops one")
    interval: Count = Field(1, description="epochs between two exchanges of the population (pbt)")
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of the population that is replaced (pbt, 0..0.5)")
    in_process: bool = Field(False, description="train inside the trial's own process: for tiny trials of one worker")
    concurrency: Index = Field(0, description="trials at a time (0: as many as fit on the cluster)")
    max_failures: Index = Field(2, description="restarts of a trial whose process died before it counts as failed")
    base: bool = Field(True, description="the settings without any change take part, as trial 0 and as a finalist")
    finalists: Index = Field(3, description="best trials that are trained again with other seeds")
    finalist_seeds: Index = Field(3, description="seeds each finalist is trained with (0: no repeats; 2 or more)")
    final_seeds: Index = Field(0, description="trainings of the winner at the end, as best.yaml says, a seed each")
    final: dict[str, Any] = Field(
        default_factory=dict, description="dotted settings over the winner's in best.yaml and final trainings"
    )
    heatmap: list[str] = Field(
        [], description="two searched fields for the heat map; empty: augmentation strength, else the most important"
    )
