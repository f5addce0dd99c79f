"""The one training engine, in the driver: any method, DDP on Ray Train, resumed by itself.

It knows a method only as a module (see `ray_jobs.training.methods`). What every DDP rank does is in
`ray_jobs.training.trainer`.
"""

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

from facelib.config import Settings
from facelib.data import FaceDataset, Folder, ImageSpec
from facelib.data.fingerprint import claim_output_dir
from facelib.data.lock import directory_lock
from facelib.data.storage import file_sha256
from facelib.evaluation.protocols import parse_spec
from facelib.models import save_backbone
from facelib.tracking import Run
from ray_jobs.errors import JobError
from ray_jobs.resources import can_place, cluster_nodes, describe_resources
from ray_jobs.training.callbacks import FailFastCallback, MLflowCallback
from ray_jobs.training.checkpoint import forget_lost_checkpoints, newest_checkpoint, read_state
from ray_jobs.training.context import FULL_RUN, LocalContext, TrainingSpan
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.methods import backbone_kwargs, new_backbone
from ray_jobs.training.online_faces import FacePool, training_faces, training_faces_spec
from ray_jobs.training.trainer import train_worker, work

STORAGE_NAME = "training"  # where Ray Train keeps its checkpoints, below the training's folder
MODEL_NAME = "model.pt"
HISTORY_NAME = "history.json"


def train(settings: Settings, run: Run, method: str) -> str:
    """Train `method` (`ssl` or `unpg`) to <output>/<method>/model.pt; return what was written.

    A finished training is recognized and kept; an unfinished one continues from its last checkpoint.
    """
    faces = training_faces(settings)
    folder = Folder(settings.path(method)).create()
    with directory_lock(folder, f"train_{method}"):
        claim_output_dir(folder, training_spec(settings, faces, method))
        if not folder.exists(MODEL_NAME):
            with FacePool.start(settings) if settings.data.stream else contextlib.nullcontext() as pool:
                log = MLflowCallback(run.uri, run.run_id)
                state = fit(settings, method, folder.uri, [log], face_pool=pool.name if pool else "")
            write_result(settings, run, folder, faces.image_spec, state)
        else:
            print(f"{method}: {folder.uri}/{MODEL_NAME} is there already", flush=True)
    return f"{folder.uri}/{MODEL_NAME}"


def training_spec(settings: Settings, faces: TrainingFaces, method: str) -> dict[str, Any]:
    """Everything that decides the trained weights; a folder holds one training only."""
    tree = settings.model_dump(mode="json", include={"seed", "model", "augment", method, "train"})
    operational = ("cpus_per_worker", "threads", "use_gpu", "gpus_per_worker", "max_failures", "keep_checkpoints",
                   "checkpoint_every", "compile")  # fmt: skip
    # Watched sets decide nothing unless the model is chosen by them.
    watched = () if settings.train.selection == "sets" else ("sets",)
    # An elastic training is one whose number of workers may change.
    elastic = ("workers", "min_workers") if settings.train.min_workers else ("min_workers",)
    for name in (*operational, *watched, *elastic):
        tree["train"].pop(name)
    spec = {f"{section}.{k}": v for section, values in tree.items() if section != "seed" for k, v in values.items()}
    spec |= {"seed": settings.seed, "data.window_row_groups": settings.data.window_row_groups}
    if settings.model.init_from:  # What it holds counts, not where it lies.
        spec["model.init_from"] = file_sha256(settings.path(settings.model.init_from))
    spec |= training_faces_spec(settings, faces)
    if settings.train.selection == "heldout":
        heldout = FaceDataset(settings.path(settings.data.heldout))
        spec |= {"data.heldout parts": [p.sha256 for p in heldout.manifest.parts]}
        spec |= {"evaluate.pairs": settings.evaluate.pairs}
    return spec


def fit(
    settings: Settings,
    method: str,
    uri: str,
    callbacks: Sequence[Any],
    span: TrainingSpan = FULL_RUN,
    face_pool: str = "",
) -> dict[str, Any]:
    """Train below `uri`, or go on from the last checkpoint there; returns the last state.

    Args:
        listeners: told of every report (`after_report`).
        piece: for sweeps, what part of the training, and where.
        face_pool: name of the pool that makes faces for a training without a dataset.
    """
    train = settings.train
    check_training_resources(settings)
    settings = _absolute(settings)
    storage = f"{uri}/{STORAGE_NAME}"
    forget_lost_checkpoints(storage)
    config = {
        "settings": settings.model_dump(mode="json"),
        "method": method,
        "storage": storage,
        "warm_start_from": span.warm_start_from,
        "stop_epoch": span.stop_epoch,
        "face_pool": face_pool,
    }
    if span.in_process:
        work(LocalContext(storage, train.keep_checkpoints, callbacks), config)
    else:
        _fit_group(settings, uri, config, [*callbacks, FailFastCallback()])
    newest = newest_checkpoint(storage)
    if newest is None:
        raise JobError(f"{storage}: training ended without a checkpoint that can be read; run the job again")
    return read_state(storage, newest)


def worker_resources(settings: Settings) -> dict[str, float]:
    """What one worker reserves."""
    train = settings.train
    return {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if train.use_gpu else {})}


def _fit_group(settings: Settings, uri: str, config: dict[str, Any], callbacks: list[Any]) -> None:
    """Train in a worker group of Ray Train."""
    train = settings.train
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=(train.min_workers, train.workers) if train.min_workers else train.workers,
            use_gpu=train.use_gpu,
            resources_per_worker=worker_resources(settings),
        ),
        run_config=ray.train.RunConfig(
            name=STORAGE_NAME,
            storage_path=uri,
            callbacks=callbacks,
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.keep_checkpoints),
        ),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit:  # what Ray Train makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)  # Ray Train leaves its own, which then swallows every Ctrl-C.


def check_training_resources(settings: Settings) -> None:
    """Trainers, their readers and what makes their faces must fit together, or one would wait for ever for a CPU."""
    if settings.ray.autoscaling:
        return  # What the cluster will have is not known here; a demand that it can never meet waits, and Ray says so.
    train, data = settings.train, settings.data
    workers = train.min_workers or train.workers
    makers = [settings.generate, settings.align] if data.stream else []
    making = [{"CPU": cfg.cpus_per_actor, "GPU": cfg.gpus_per_actor} for cfg in makers for _ in range(cfg.actors)]
    # One reader for each worker is enough to go on, slowly.
    needed = [*making, *[worker_resources(settings)] * workers, *[{"CPU": data.cpus_per_reader}] * workers]
    nodes = cluster_nodes()
    if not can_place(nodes, needed):
        own = workers * (train.cpus_per_worker + (data.readers + 1) * data.cpus_per_reader)
        words = " and, with data.stream, generate.actors and align.actors" if makers else ""
        gpus = f", train.gpus_per_worker={train.gpus_per_worker:g}" if train.use_gpu else ""
        raise JobError(
            f"train.workers={workers} need {own:g} CPUs with their readers (train.cpus_per_worker="
            f"{train.cpus_per_worker:g}{gpus}, data.readers={data.readers}, data.cpus_per_reader="
            f"{data.cpus_per_reader:g}){words}; there are {describe_resources(nodes)}: lower one of them, or set "
            "ray.autoscaling=true if the cluster grows"
        )


def _absolute(settings: Settings) -> Settings:
    """Workers run in other folders: nothing relative may reach them."""
    sets = [parse_spec(text).absolute() for text in settings.train.sets]
    init_from = settings.path(settings.model.init_from) if settings.model.init_from else ""
    return settings.model_copy(
        update={
            "output": settings.path("").rstrip("/"),
            "train": settings.train.model_copy(update={"sets": sets}),
            "model": settings.model.model_copy(update={"init_from": init_from}),
        }
    )


def write_result(settings: Settings, run: Run, folder: Folder, image_spec: ImageSpec, state: dict[str, Any]) -> None:
    """history.json, the curves, and model.pt last, because its presence means done; all into MLflow too."""
    from facelib.plots import plot_training_curves

    model = settings.model
    backbone = new_backbone(model)
    backbone.load_state_dict(state["selection"]["weights"])
    best = {"epoch": state["selection"]["epoch"], "metric": state["selection"]["metric"]}
    print(f"best epoch {best['epoch']} ({settings.train.selection}: {best['metric']:.4f})", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        history, curves, path = (Path(temporary) / n for n in (HISTORY_NAME, "curves.png", MODEL_NAME))
        history.write_text(json.dumps(state["history"], indent=1))
        plot_training_curves(state["history"], curves)
        save_backbone(path, backbone, model.name, backbone_kwargs(model), {**image_spec.model_dump(), "training": best})
        for file in (history, curves, path):
            run.log_file(file, "pictures" if file is curves else "")
            folder.write(file.name, file.read_bytes())
    run.log_metrics({"best_epoch": best["epoch"], "best_metric": best["metric"]})
