"""Settings of where jobs run and report: MLflow, Ray, the stages of a pipeline."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import NonNegative, Positive, Section


class TrackingSettings(Section):
    """MLflow."""

    uri: str = Field("", description="tracking URI; empty: MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db")
    experiment: str = Field("facelib", description="experiment name")
    system_metrics: bool = Field(True, description="log CPU, memory and GPU use")


class RaySettings(Section):
    """The Ray cluster a job runs on."""

    address: str = Field("", description="cluster to join; empty: RAY_ADDRESS, else a new local one")
    autoscaling: bool = Field(False, description="the cluster grows when asked: do not compare with what it has now")
    object_store_gb: NonNegative = Field(0, description="object store of a new local cluster, GB (0: Ray's choice)")
    no_progress_minutes: Positive = Field(
        10, description="a data stream without progress for this long is an error (at least 60 with autoscaling)"
    )


class StageSettings(Section):
    """One stage of a pipeline: a job and what is set for it."""

    job: Literal[
        "generate", "import_data", "inspect_dataset", "train_ssl", "train_unpg", "tune", "evaluate", "embed", "export"
    ] = Field(description="job to run")
    name: str = Field("", description="name in tables and MLflow; default: the job's")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted settings for this stage only")
