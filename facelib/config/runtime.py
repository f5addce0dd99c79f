"""Settings of where jobs run and what they report to: MLflow, Ray, pipeline stages."""

from typing import Any, Literal

from pydantic import Field

from facelib.config.fields import NonNegative, Positive, Section


class TrackingSettings(Section):
    """Experiment tracking with MLflow."""

    uri: str = Field("", description="tracking URI; empty: MLFLOW_TRACKING_URI, else runs/mlflow.db below FACELIB_HOME")
    experiment: str = Field("facelib", description="MLflow experiment")
    registered_model: str = Field("", description="registered model of which export adds a version; empty: none")
    timeout: Positive = Field(10, description="seconds that a tracking server may take to answer")
    system_metrics: bool = Field(True, description="log CPU, memory and GPU usage")


class RaySettings(Section):
    """The Ray cluster that a job runs on."""

    address: str = Field("", description="address of the cluster to join; empty: RAY_ADDRESS, else a new local cluster")
    timeout: Positive = Field(10, description="seconds that the cluster at `address` may take to answer")
    autoscaling: bool = Field(
        False, description="the cluster adds nodes on demand: skip the check that a job fits on the current nodes"
    )
    dashboard: bool = Field(False, description="start Ray's dashboard with a new local cluster, and print its address")
    object_store_gb: NonNegative = Field(
        0, description="object store memory of a new local cluster in GB (0: Ray's default)"
    )
    no_progress_minutes: Positive = Field(
        10, description="minutes without progress after which a data stream fails (at least 60 with autoscaling)"
    )


class StageSettings(Section):
    """One stage of a pipeline: a job and the settings it overrides."""

    job: Literal[
        "generate",
        "import_data",
        "export_images",
        "inspect_dataset",
        "train_ssl",
        "train_unpg",
        "tune",
        "whiten",
        "evaluate",
        "embed",
        "export",
    ] = Field(description="job to run")
    name: str = Field("", description="name in tables and MLflow; empty: name of the job")
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings of this stage only, by dotted name: {train.epochs: 3}"
    )
