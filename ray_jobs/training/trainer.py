"""One DDP rank of a training: its state, the loop over steps and epochs, everything into the checkpoint.

Shapes: V views of a sample, N samples of a rank's batch, H and W pixels.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facelib.augmentation import to_network_input
from facelib.config import Settings
from facelib.utils.process import return_memory
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError
from ray_jobs.progress import format_seconds
from ray_jobs.training.callbacks import LOGGED
from ray_jobs.training.checkpoint import STATE_NAME, newest_checkpoint, read_state, write_state
from ray_jobs.training.context import RayTrainContext, TrainContext
from ray_jobs.training.loader import Augmentation, Batch, batch_stream
from ray_jobs.training.methods import METHODS, StepOutput
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.optim import BestCheckpoint, LRScheduler, build_optimizer, resumed_step, seed_step
from ray_jobs.training.sampler import DistributedBatchSampler
from ray_jobs.training.sharded_state import clip_gradients, gather_state, keep_from_ddp, load_state
from ray_jobs.training.validator import Validator

# Seconds. Steps leave freed memory scattered in the C library's arenas: 0.4 GB of a trainer's 1.1 after two minutes,
# and growing. To give it back takes a third of a second.
RETURN_MEMORY_EVERY = 120.0


def train_worker(config: dict[str, Any]) -> None:
    """One DDP rank."""
    work(RayTrainContext(), config)


def work(place: TrainContext, config: dict[str, Any]) -> None:
    """What a rank does, wherever it is."""
    worker = Trainer(Settings.model_validate(config["settings"]), config["method"], place, config["face_pool"])
    worker.restore(config["storage"], config["warm_start_from"])
    worker.fit(config["stop_epoch"])


class Trainer:
    """The state of one rank, and the loop over epochs and steps."""

    def __init__(self, settings: Settings, method: str, place: TrainContext, face_pool: str = "") -> None:
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
        self.sampler = DistributedBatchSampler(
            self.faces,
            self.method.sampling,
            settings.train.batch_size,
            settings.data.window_row_groups,
            settings.seed,
            self.world,
        )
        self.wrapped = self._wrap()
        self.optimizer = build_optimizer(self.method.parameters(), settings.train)
        self.rate = LRScheduler(settings.train, self.sampler.steps_per_epoch, settings.train.batch_size * self.world)
        self.selection = BestCheckpoint(settings.train.patience)
        self.augmentation = Augmentation(settings.augment, settings.train.epochs * self.sampler.steps_per_epoch)
        self.augmentation.build()  # A wrong setting is an error here, not in a reader.
        self.validator = Validator(settings, self.faces.image_spec) if self.rank == 0 else None
        self.history: list[dict[str, float]] = []
        self.step, self.stopped = 0, False

    def fit(self, stop_epoch: int = 0) -> None:
        """Train from `self.step` to the end of `stop_epoch` (0: of the training), reporting every epoch."""
        train, per_epoch = self.settings.train, self.sampler.steps_per_epoch
        last = (stop_epoch or train.epochs) * per_epoch
        stream = batch_stream(
            self.faces, self.sampler, self.rank, self.step, last, self.settings.data, self.augmentation
        )
        meter = MetricAccumulator(train.batch_size * self.world)
        started, first_step = time.monotonic(), self.step
        returned = started
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
                meter = MetricAccumulator(train.batch_size * self.world)
            elif train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self._require_finite()
                self._checkpoint({"step": self.step})
            if time.monotonic() - returned > RETURN_MEMORY_EVERY:
                return_memory()
                returned = time.monotonic()

    def restore(self, storage: str, warm_start_from: str = "") -> None:
        """Take up the newest checkpoint that is whole, of this training or else of the one it begins with."""
        chosen: tuple[str, str] | None = None
        for place in (storage, warm_start_from):
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
        self.step = resumed_step(state["epoch"], state["epoch_samples"], batch, self.sampler.steps_per_epoch)
        if self.rank == 0:
            print(f"resumed at epoch {self.step / self.sampler.steps_per_epoch:.2f}", flush=True)

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
            result: StepOutput = self.wrapped(images, labels)
        result.loss.backward()
        metrics = {"loss": result.loss.detach(), **result.metrics}
        if train.clip_norm:
            metrics["gradient_norm"] = clip_gradients(self.method, train.clip_norm)
        self.optimizer.step()
        metrics["learning_rate"] = torch.tensor(rate)
        metrics["augmentation_strength"] = torch.tensor(self.augmentation.strength(self.step))
        return metrics

    def _end_epoch(self, metrics: dict[str, float], seconds_left: float) -> None:
        train, epoch = self.settings.train, self.step // self.sampler.steps_per_epoch
        self._require_finite()
        if self.validator is not None:
            if epoch % train.evaluate_every == 0 or epoch == train.epochs:
                evaluation = self.validator.evaluate(self.method.backbone)
                metrics |= evaluation.metrics
                chosen = evaluation.selected if train.selection != "last" else float(epoch)
                self.selection.observe(chosen, epoch, self.method.backbone)
                self.rate.observe(chosen)
            metrics["epoch"] = epoch
            self.history.append(metrics)
            print(self.validator.line(metrics, train.epochs) + f", {format_seconds(seconds_left)} left", flush=True)
        if self.world > 1:
            self._agree()
        self.stopped = self.selection.exhausted
        logged = {k: v for k, v in metrics.items() if k != "epoch"}
        self._checkpoint({"epoch": epoch, "step": self.step, LOGGED: logged})

    def _require_finite(self) -> None:
        """Before every checkpoint: a diverged state must not replace a good one."""
        if not all(bool(p.isfinite().all()) for p in self.method.parameters()):
            raise JobError(
                f"epoch {self.step / self.sampler.steps_per_epoch:.1f}: the training diverged, weights are no longer "
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
                "epoch": self.step // self.sampler.steps_per_epoch,
                "epoch_samples": self.step % self.sampler.steps_per_epoch * self.settings.train.batch_size * self.world,
            }
            write_state(Path(folder) / STATE_NAME, state)
            self.place.report(metrics, folder)


class MetricAccumulator:
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
