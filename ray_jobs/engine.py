"""The one training engine: any method, DDP on Ray Train, everything in the checkpoint, resumed by itself.

It knows a method only as a module (see `ray_jobs.methods`). `train` runs in the driver, `train_worker` in every DDP
rank.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from facelib.augmentation import to_network_input
from facelib.config import Settings
from facelib.faces import Contract, FaceDataset, Folder
from facelib.files import file_sha256
from facelib.locks import hold_folder
from facelib.models import save_backbone
from facelib.plans import claim_folder
from facelib.protocols import parse_spec
from facelib.tracking import Run
from ray_jobs.batches import Augmentation, Batch, BatchPlan, TrainingFaces, batch_stream
from ray_jobs.checkpoints import STATE_NAME, forget_lost_checkpoints, newest_checkpoint, read_state, write_state
from ray_jobs.methods import METHODS, Step, architecture, new_backbone
from ray_jobs.monitor import Monitor
from ray_jobs.places import WHOLE, GroupPlace, OwnPlace, Piece, Place
from ray_jobs.session import JobError, configure_data, format_seconds
from ray_jobs.sharding import clip_gradients, gather_state, keep_from_ddp, load_state
from ray_jobs.streamed_faces import FacePool, training_faces, training_faces_plan
from ray_jobs.training import LearningRate, Selection, build_optimizer, resumed_step, seed_step
from ray_jobs.watch import LOGGED, Watch

STORAGE_NAME = "training"  # where Ray Train keeps its checkpoints, below the training's folder
MODEL_NAME = "model.pt"
HISTORY_NAME = "history.json"


def train(settings: Settings, run: Run, method: str) -> str:
    """Train `method` (`ssl` or `unpg`) to <output>/<method>/model.pt; return what was written.

    A finished training is recognised and kept; an unfinished one continues from its last checkpoint.
    """
    faces = training_faces(settings)
    folder = Folder(settings.path(method)).create()
    with hold_folder(folder, f"train_{method}"):
        claim_folder(folder, training_plan(settings, faces, method))
        if not folder.exists(MODEL_NAME):
            with FacePool.start(settings) if settings.data.stream else contextlib.nullcontext() as pool:
                watch = Watch(run.uri, run.run_id)
                state = fit(settings, watch, method, folder.uri, face_pool=pool.name if pool else "")
            write_result(settings, run, folder, faces.contract, state)
        else:
            print(f"{method}: {folder.uri}/{MODEL_NAME} is there already", flush=True)
    return f"{folder.uri}/{MODEL_NAME}"


def training_plan(settings: Settings, faces: TrainingFaces, method: str) -> dict[str, Any]:
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
    plan = {f"{section}.{k}": v for section, values in tree.items() if section != "seed" for k, v in values.items()}
    plan |= {"seed": settings.seed, "data.window_row_groups": settings.data.window_row_groups}
    if settings.model.init_from:  # What it holds counts, not where it lies.
        plan["model.init_from"] = file_sha256(settings.path(settings.model.init_from))
    plan |= training_faces_plan(settings, faces)
    if settings.train.selection == "heldout":
        heldout = FaceDataset(settings.path(settings.data.heldout))
        plan |= {"data.heldout parts": [p.sha256 for p in heldout.manifest.parts]}
        plan |= {"evaluate.pairs": settings.evaluate.pairs}
    return plan


def train_worker(config: dict[str, Any]) -> None:
    """One DDP rank."""
    work(GroupPlace(), config)


def work(place: Place, config: dict[str, Any]) -> None:
    """What a rank does, wherever it is."""
    worker = Worker(Settings.model_validate(config["settings"]), config["method"], place, config["face_pool"])
    worker.restore(config["storage"], config["begins_with"])
    worker.fit(config["stop_epoch"])


class Worker:
    """The state of one rank, and the loop over epochs and steps."""

    def __init__(self, settings: Settings, method: str, place: Place, face_pool: str = "") -> None:
        self.settings, self.place = settings, place
        self.rank, self.world, self.device = place.rank, place.world, place.device
        configure_data(settings)
        if self.device.type == "cpu":
            # One core is left to the readers: oneDNN's backward kernels wait for each other in busy loops,
            # and a thread that is pushed off its core makes a step ten times longer.
            share = (os.cpu_count() or 1) // place.local_world
            torch.set_num_threads(settings.train.threads or max(1, share - 1))
        self.faces = training_faces(settings, face_pool)
        torch.manual_seed(settings.seed)
        # Batches depend on the number of identities, the method on the number of classes: both come from the faces.
        self.method: Any = METHODS[method](settings, self.faces.identities)
        self.method.to(self.device)
        if settings.train.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.plan = BatchPlan(
            self.faces,
            self.method.sampling,
            settings.train.batch_size,
            settings.data.window_row_groups,
            settings.seed,
            self.world,
        )
        self.wrapped = self._wrap()
        self.optimizer = build_optimizer(self.method.parameters(), settings.train)
        self.rate = LearningRate(settings.train, self.plan.steps_per_epoch, settings.train.batch_size * self.world)
        self.selection = Selection(settings.train.patience)
        self.augmentation = Augmentation(settings.augment, settings.train.epochs * self.plan.steps_per_epoch)
        self.augmentation.build()  # A wrong setting is an error here, not in a reader.
        self.monitor = Monitor(settings, self.faces.contract) if self.rank == 0 else None
        self.history: list[dict[str, float]] = []
        self.step, self.stopped = 0, False

    def fit(self, stop_epoch: int = 0) -> None:
        """Train from `self.step` to the end of `stop_epoch` (0: of the training), reporting every epoch."""
        train, per_epoch = self.settings.train, self.plan.steps_per_epoch
        last = (stop_epoch or train.epochs) * per_epoch
        stream = batch_stream(self.faces, self.plan, self.rank, self.step, last, self.settings.data, self.augmentation)
        meter = Meter(train.batch_size * self.world)
        started, first_step = time.monotonic(), self.step
        self.method.train()
        while self.step < last and not self.stopped:
            with meter.waiting():
                batch = next(stream)
            metrics = self._train_step(*self._inputs(batch))
            meter.add(metrics)
            self.step += 1
            if self.step % per_epoch == 0:
                left = (time.monotonic() - started) / (self.step - first_step) * (last - self.step)
                self._end_epoch(meter.result(self.device), left)
                meter = Meter(train.batch_size * self.world)
            elif train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self._require_finite()
                self._checkpoint({"step": self.step})

    def restore(self, storage: str, begins_with: str = "") -> None:
        """Take up the newest checkpoint that is whole, of this training or else of the one it begins with."""
        chosen: tuple[str, str] | None = None
        for place in (storage, begins_with):
            name = newest_checkpoint(place) if place and self.rank == 0 and chosen is None else None
            chosen = (place, name) if name else chosen
        shared = [chosen]
        if self.world > 1:  # One decision for all, whatever each of them could read.
            torch.distributed.broadcast_object_list(shared, src=0)
        if shared[0] is None:
            return
        state = read_state(*shared[0])
        load_state(self.method, self.optimizer, state)
        self.rate.load_state_dict(state["rate"])
        self.selection.load_state_dict(state["selection"])
        self.history, self.stopped = state["history"], state["stopped"]
        # Counted in epochs and samples, so that another number of workers takes up at the same place.
        batch = self.settings.train.batch_size * self.world
        self.step = resumed_step(state["epoch"], state["epoch_samples"], batch, self.plan.steps_per_epoch)
        if self.rank == 0:
            print(f"resumed at epoch {self.step / self.plan.steps_per_epoch:.2f}", flush=True)

    def _wrap(self) -> nn.Module:
        if self.settings.train.compile:
            self.method.compile()
        if self.world == 1:
            return self.method
        keep_from_ddp(self.method)
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Queue and key encoder are kept equal by the method itself; broadcasting them would cost a copy of the queue
        # every step. BatchNorm's running statistics are each rank's own; the model that is kept has rank 0's.
        return nn.parallel.DistributedDataParallel(self.method, device_ids=ids, forward_sync_buffers=False)

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input [V, N, 3, H, W] and labels [N] on the device."""
        pixels = torch.from_numpy(batch.images.copy()).to(self.device, non_blocking=True)
        samples, views = pixels.shape[:2]
        # [V·N, 3, H, W] whose memory stays channels-last, as the pixels came.
        inputs = to_network_input(pixels.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2))
        if not self.settings.train.channels_last:
            inputs = inputs.contiguous()
        return inputs.unflatten(0, (views, samples)), torch.from_numpy(batch.labels.copy()).to(self.device)

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        train = self.settings.train
        torch.manual_seed(seed_step(self.settings.seed, self.step, self.rank))  # dropout
        rate = self.rate.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
            result: Step = self.wrapped(images, labels)
        result.loss.backward()
        metrics = {"loss": result.loss.detach(), **result.metrics}
        if train.clip_norm:
            metrics["gradient_norm"] = clip_gradients(self.method, train.clip_norm)
        self.optimizer.step()
        metrics["learning_rate"] = torch.tensor(rate)
        metrics["augmentation_strength"] = torch.tensor(self.augmentation.strength(self.step))
        return metrics

    def _end_epoch(self, metrics: dict[str, float], seconds_left: float) -> None:
        train, epoch = self.settings.train, self.step // self.plan.steps_per_epoch
        self._require_finite()
        if self.monitor is not None:
            if epoch % train.evaluate_every == 0 or epoch == train.epochs:
                evaluation = self.monitor.evaluate(self.method.backbone)
                metrics |= evaluation.metrics
                chosen = evaluation.selected if train.selection != "last" else float(epoch)
                self.selection.observe(chosen, epoch, self.method.backbone)
                self.rate.observe(chosen)
            metrics["epoch"] = epoch
            self.history.append(metrics)
            print(self.monitor.line(metrics, train.epochs) + f", {format_seconds(seconds_left)} left", flush=True)
        if self.world > 1:
            self._agree()
        self.stopped = self.selection.exhausted
        logged = {k: v for k, v in metrics.items() if k != "epoch"}
        self._checkpoint({"epoch": epoch, "step": self.step, LOGGED: logged})

    def _require_finite(self) -> None:
        """Before every checkpoint: a diverged state must not replace a good one."""
        if not all(bool(p.isfinite().all()) for p in self.method.parameters()):
            raise JobError(
                f"epoch {self.step / self.plan.steps_per_epoch:.1f}: the training diverged, weights are no longer "
                f"numbers. Lower train.learning_rate (now {self.settings.train.learning_rate}) or set train.clip_norm, "
                "and start in a new output folder."
            )

    def _agree(self) -> None:
        """Rank 0 evaluates; the others take over what decides the next epoch."""
        shared = [self.rate.state_dict(), self.selection.waited] if self.rank == 0 else [None, None]
        torch.distributed.broadcast_object_list(shared, src=0)
        self.rate.load_state_dict(shared[0])  # type: ignore[arg-type]
        self.selection.waited = int(shared[1])  # type: ignore[call-overload]

    def _checkpoint(self, metrics: dict[str, Any]) -> None:
        """A barrier of all ranks; rank 0 brings the state."""
        states = gather_state(self.method, self.optimizer)
        if self.rank != 0:
            self.place.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = {
                **states,
                "rate": self.rate.state_dict(),
                "selection": self.selection.state_dict(),
                "history": self.history,
                "stopped": self.stopped,
                "epoch": self.step // self.plan.steps_per_epoch,
                "epoch_samples": self.step % self.plan.steps_per_epoch * self.settings.train.batch_size * self.world,
            }
            write_state(Path(folder) / STATE_NAME, state)
            self.place.report(metrics, folder)


class Meter:
    """Means of an epoch's metrics, kept on the device so that no step waits for a number."""

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step, self.steps, self.waited = samples_per_step, 0, 0.0
        self.sums: dict[str, torch.Tensor] = {}
        self.started = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent waiting for data."""
        begin = time.monotonic()
        yield
        self.waited += time.monotonic() - begin

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        """One step's metrics."""
        self.steps += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value.detach().float() if name in self.sums else value.detach().float()

    def result(self, device: torch.device) -> dict[str, float]:
        """Means, samples a second, and the share of time spent waiting for data."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - self.started
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        rate = self.samples_per_step * self.steps / seconds
        return {**means, "samples_per_second": rate, "data_wait_share": self.waited / seconds}


def fit(
    settings: Settings, watch: Watch, method: str, uri: str, piece: Piece = WHOLE, face_pool: str = ""
) -> dict[str, Any]:
    """Train below `uri`, or go on from the last checkpoint there; returns the last state.

    Args:
        watch: logs epochs to the run.
        piece: for sweeps, what part of the training, and where.
        face_pool: name of the pool that makes faces for a training without a dataset.
    """
    train = settings.train
    require_room(settings)
    settings = _absolute(settings)
    storage = f"{uri}/{STORAGE_NAME}"
    forget_lost_checkpoints(storage)
    config = {
        "settings": settings.model_dump(mode="json"),
        "method": method,
        "storage": storage,
        "begins_with": piece.begins_with,
        "stop_epoch": piece.stop_epoch,
        "face_pool": face_pool,
    }
    if piece.in_process:
        work(OwnPlace(storage, train.keep_checkpoints, (watch, *piece.listeners)), config)
    else:
        _fit_group(settings, uri, config, [watch, *piece.listeners])
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
    trainer.fit()


def require_room(settings: Settings) -> None:
    """Trainers, their readers and what makes their faces must fit together, or one would wait for ever for a CPU."""
    if settings.ray.autoscaling:
        return  # What the cluster will have is not known here; a demand that it can never meet waits, and Ray says so.
    train, data = settings.train, settings.data
    workers = train.min_workers or train.workers
    makers = [settings.generate, settings.align] if data.stream else []
    making = sum(ask.actors * ask.cpus_per_actor for ask in makers)
    needed = making + workers * (train.cpus_per_worker + (data.readers + 1) * data.cpus_per_reader)
    found = ray.cluster_resources().get("CPU", 0)
    # One reader for each worker is enough to go on, slowly.
    if making + workers * (train.cpus_per_worker + data.cpus_per_reader) > found + 1e-9:
        making_words = f" and, with data.stream, generate.actors and align.actors ({making:g} CPUs)" if makers else ""
        raise JobError(
            f"train.workers={workers} need {needed:g} CPUs with their readers (train.cpus_per_worker="
            f"{train.cpus_per_worker:g}, data.readers={data.readers}, data.cpus_per_reader={data.cpus_per_reader:g})"
            f"{making_words}, the cluster has {found:g}: lower one of them, or set ray.autoscaling=true if it grows"
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


def write_result(settings: Settings, run: Run, folder: Folder, contract: Contract, state: dict[str, Any]) -> None:
    """history.json, the curves, and model.pt last, because its presence means done; all into MLflow too."""
    import json

    from facelib.evaluation import plot_training_curves

    model = settings.model
    backbone = new_backbone(model)
    backbone.load_state_dict(state["selection"]["weights"])
    best = {"epoch": state["selection"]["epoch"], "metric": state["selection"]["metric"]}
    print(f"best epoch {best['epoch']} ({settings.train.selection}: {best['metric']:.4f})", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        history, curves, path = (Path(temporary) / n for n in (HISTORY_NAME, "curves.png", MODEL_NAME))
        history.write_text(json.dumps(state["history"], indent=1))
        plot_training_curves(state["history"], curves)
        save_backbone(path, backbone, model.name, architecture(model), {**contract.model_dump(), "training": best})
        for file in (history, curves, path):
            run.log_file(file, "pictures" if file is curves else "")
            folder.write(file.name, file.read_bytes())
    run.log_metrics({"best_epoch": best["epoch"], "best_metric": best["metric"]})
