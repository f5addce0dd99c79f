"""The driver of a training: plans it, starts Ray Train, writes the result. What every DDP rank does is in `trainer`."""

import contextlib
import json
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray._private.services import get_webui_url_from_internal_kv
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from facelib.config import Settings
from facelib.data import Folder, ImageSpec
from facelib.data.lock import directory_lock
from facelib.models import read_checkpoint, save_backbone
from facelib.models.pixels import SYMMETRIC
from facelib.tracking import Run
from ray_jobs.datasets.dataset_report import log_training_sets
from ray_jobs.errors import JobError
from ray_jobs.resources import check_training_resources, worker_resources
from ray_jobs.results import JobResult
from ray_jobs.training.callbacks import FailFastCallback, MLflowCallback
from ray_jobs.training.checkpoint import discard_stale_bookkeeping, newest_checkpoint, read_state
from ray_jobs.training.context import LocalContext
from ray_jobs.training.extension import claim_training_dir
from ray_jobs.training.methods import backbone_kwargs, new_backbone
from ray_jobs.training.online_faces import FacePool, training_faces
from ray_jobs.training.plan import STORAGE_NAME, TrainingPlan, training_spec
from ray_jobs.training.trainer import run_rank, train_rank

MODEL_NAME = "model.pt"
HISTORY_NAME = "history.json"


def train(settings: Settings, run: Run, method: str) -> JobResult:
    """Train `method` (`ssl` or `unpg`) to <output>/<method>/model.pt.

    A finished training is recognized and kept; an unfinished one continues from its last checkpoint.
    """
    faces = training_faces(settings)
    folder = Folder(settings.path(method)).create()
    with directory_lock(folder, f"train_{method}"):
        claim_training_dir(settings, folder, training_spec(settings, faces, method), MODEL_NAME)
        log_training_sets(settings, run)
        if folder.exists(MODEL_NAME):
            print(f"{method}: {folder.uri}/{MODEL_NAME} exists already", flush=True)
        else:
            with FacePool.start(settings) if settings.data.stream else contextlib.nullcontext() as pool:
                plan = TrainingPlan.create(settings, method, folder.uri, face_pool=pool.name if pool else "")
                state = fit(plan, [MLflowCallback(run.uri, run.run_id)])
            write_result(settings, run, folder, faces.image_spec, state)
    return _result(folder)


def fit(plan: TrainingPlan, callbacks: Sequence[Any]) -> dict[str, Any]:
    """Train as planned, or continue from the newest checkpoint; returns the last state.

    Args:
        callbacks: called after every report (`after_report`), as Ray Train's `UserCallback`s are.
    """
    check_training_resources(plan.settings)
    discard_stale_bookkeeping(plan.storage)
    if plan.in_process:
        train = plan.settings.train
        run_rank(plan, LocalContext(plan.storage, train.keep_checkpoints, callbacks, train.use_gpu))
    else:
        _fit_worker_group(plan, [*callbacks, FailFastCallback()])
    newest = newest_checkpoint(plan.storage)
    if newest is None:
        raise JobError(f"{plan.storage}: the training ended without a readable checkpoint; run the job again")
    return read_state(plan.storage, newest)


class WorkerGroupTrainer(ray.train.torch.TorchTrainer):
    """Ray Train's trainer without those of its helper processes that have nothing to do.

    One hands out Ray Datasets, and here are none. Another asks the dashboard every second whether the controller is
    alive (ray#58515), and on a cluster without one can only warn that it got no answer.
    """

    def _create_default_callbacks(self) -> list[Any]:
        needless: tuple[type, ...] = (DatasetsCallback,)
        if not get_webui_url_from_internal_kv():
            needless += (PlacementGroupCleanerCallback,)
        every = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's annotations are of its first version.
        return [callback for callback in every if not isinstance(callback, needless)]


def _fit_worker_group(plan: TrainingPlan, callbacks: list[Any]) -> None:
    """Train in a worker group of Ray Train."""
    train = plan.settings.train
    trainer = WorkerGroupTrainer(
        train_rank,
        train_loop_config={"plan": plan},
        scaling_config=ray.train.ScalingConfig(
            # A range makes the group elastic; Ray's annotation does not know it.
            num_workers=(train.min_workers, train.workers) if train.min_workers else train.workers,  # type: ignore[arg-type]
            use_gpu=train.use_gpu,
            resources_per_worker=worker_resources(train),
        ),
        run_config=ray.train.RunConfig(
            name=STORAGE_NAME,
            storage_path=plan.uri,
            callbacks=callbacks,
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.keep_checkpoints),
        ),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit:  # Ray Train turns Ctrl-C into it.
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)  # Ray Train leaves its own handler, which swallows every Ctrl-C.


def write_result(settings: Settings, run: Run, folder: Folder, image_spec: ImageSpec, state: dict[str, Any]) -> None:
    """Write history.json, the curves, and model.pt last, because its presence means done; log them to MLflow."""
    from facelib.plots import plot_training_curves

    model = settings.model
    backbone = new_backbone(model)
    backbone.load_state_dict(state["selection"]["weights"])
    backbone.normalization = state.get("normalization", SYMMETRIC)  # type: ignore[assignment]
    best = {"epoch": state["selection"]["epoch"], "metric": state["selection"]["metric"]}
    print(f"best epoch {best['epoch']} ({settings.train.selection}: {best['metric']:.4f})", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        history, curves, path = (Path(temporary) / n for n in (HISTORY_NAME, "curves.png", MODEL_NAME))
        history.write_text(json.dumps(state["history"], indent=1))
        plot_training_curves(state["history"], curves)
        save_backbone(path, backbone, model.name, backbone_kwargs(model), {**image_spec.model_dump(), "training": best})
        run.log_file(history)
        run.log_file(curves, "plots")
        run.log_model(path, settings.name, model.name, **{f"best_{name}": value for name, value in best.items()})
        for file in (history, curves, path):
            folder.write(file.name, file.read_bytes())
    run.log_metrics({f"val/best_{name}": value for name, value in best.items()})


def _result(folder: Folder) -> JobResult:
    """The result of a finished training, read from its folder."""
    path = f"{folder.uri}/{MODEL_NAME}"
    best = (read_checkpoint(path).image_spec or {}).get("training", {})
    return JobResult(
        written=(path,),
        metrics={f"best_{name}": value for name, value in best.items()},
        history=json.loads(folder.read(HISTORY_NAME)),
    )
