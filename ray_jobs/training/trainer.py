"""One DDP rank of a training: its state, the loop over steps and epochs, and its checkpoints.

Shapes: V views of a sample, N samples of a rank's batch, H rows and W columns of an image.
"""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from facelib.losses.margins import check_labels
from facelib.models.pixels import SYMMETRIC
from facelib.utils.devices import set_cuda_precision, to_device
from facelib.utils.process import return_memory
from facelib.utils.random_streams import Purpose, torch_seed
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, one_line_errors
from ray_jobs.progress import format_seconds
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.callbacks import LOGGED
from ray_jobs.training.checkpoint import STATE_NAME, newest_checkpoint, read_state, write_state
from ray_jobs.training.context import RayTrainContext, TrainContext
from ray_jobs.training.loader import Batch, load_batches
from ray_jobs.training.methods import METHODS, StepOutput
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.optim import BestCheckpoint, LRScheduler, build_optimizer, resumed_step
from ray_jobs.training.parallel import compile_encoders, distribute
from ray_jobs.training.plan import TrainingPlan
from ray_jobs.training.sampler import DistributedBatchSampler
from ray_jobs.training.sharded_state import clip_gradients, gather_state, load_state
from ray_jobs.training.validator import Validator

# Steps leave freed memory scattered in the C library's arenas: 0.4 GB of a trainer's 1.1 after two minutes, and
# growing. Returning it to the system takes a third of a second.
RETURN_MEMORY_EVERY_S = 120.0
CHECK_LOSS_EVERY = 50  # steps; a check waits for the device


def train_rank(config: dict[str, Any]) -> None:
    """One DDP rank of Ray Train's worker group; `config["plan"]` is a `TrainingPlan`."""
    with one_line_errors():
        run_rank(config["plan"], RayTrainContext())


def run_rank(plan: TrainingPlan, context: TrainContext) -> None:
    """Train one rank as planned, from the newest checkpoint on."""
    trainer = Trainer(plan, context)
    trainer.restore()
    trainer.fit()


class Trainer:
    """The state of one rank, and the loop over epochs and steps."""

    def __init__(self, plan: TrainingPlan, context: TrainContext) -> None:
        self.plan, self.settings, self.context = plan, plan.settings, context
        settings, train = plan.settings, plan.settings.train
        self.rank, self.world, self.device = context.rank, context.world, context.device
        self.global_batch = train.batch_size * self.world
        configure_data(settings)
        if self.device.type == "cuda":
            set_cuda_precision(train.tf32, train.cudnn_benchmark)
        if self.device.type == "cpu":
            # One core is left to the reading tasks: oneDNN's backward kernels wait for each other in busy loops, and a
            # thread that loses its core makes a step ten times longer.
            torch.set_num_threads(train.threads or max(1, (os.cpu_count() or 1) // context.local_world - 1))
        self.faces = training_faces(settings, plan.face_pool)
        torch.manual_seed(torch_seed(Purpose.INITIAL_WEIGHTS, settings.seed))
        # The sampler needs the number of identities and the method the number of classes: both come from the faces.
        self.method: Any = METHODS[plan.method](settings, self.faces.identities)
        self.method.to(self.device)
        if train.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.sampler = DistributedBatchSampler(
            self.faces,
            self.method.sampling,
            train.batch_size,
            settings.data.window_row_groups,
            settings.seed,
            self.world,
        )
        if train.compile:
            compile_encoders(self.method)
        self.wrapped = distribute(self.method, train, self.device) if self.world > 1 else self.method
        self.optimizer = build_optimizer(self.method.parameters(), train)
        self.scheduler = LRScheduler(train, self.sampler.steps_per_epoch, self.global_batch)
        self.best = BestCheckpoint(train.patience)
        self.augmentation = AugmentationSpec(settings.augment, train.epochs * self.sampler.steps_per_epoch)
        self.augmentation.build()  # A wrong setting is an error here, not in a reading task.
        self.validator = Validator(settings, self.faces.image_spec) if self.rank == 0 else None
        self.history: list[dict[str, float]] = []
        self.step, self.stopped = 0, False

    def fit(self) -> None:
        """Train from `self.step` to the plan's last epoch, reporting every epoch."""
        train, per_epoch = self.settings.train, self.sampler.steps_per_epoch
        last = self.plan.last_epoch * per_epoch
        stream = load_batches(
            self.faces, self.sampler, self.rank, self.step, last, self.settings.data, self.augmentation
        )
        metrics = MetricAccumulator(self.global_batch)
        losses = LossGuard(self.device)
        started, first_step = time.monotonic(), self.step
        returned = started
        self.method.train()
        while self.step < last and not self.stopped:
            with metrics.waiting():
                batch = next(stream)
            step_metrics = self._train_step(*self._inputs(batch))
            metrics.add(step_metrics)
            self.step += 1
            losses.observe(self.step, step_metrics["loss"])
            if self.step % CHECK_LOSS_EVERY == 0 or self.step % per_epoch == 0:
                self._require_finite_loss(losses)
            if self.step % per_epoch == 0:
                left = (time.monotonic() - started) / (self.step - first_step) * (last - self.step)
                self._end_epoch(metrics.result(self.device), left)
                metrics = MetricAccumulator(self.global_batch)
            elif train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self._require_finite()
                self._checkpoint({"step": self.step})
            if time.monotonic() - returned > RETURN_MEMORY_EVERY_S:
                return_memory()
                returned = time.monotonic()

    def restore(self) -> None:
        """Load the newest intact checkpoint of this training, or else of the one it warm-starts from."""
        chosen: tuple[str, str] | None = None
        for storage in (self.plan.storage, self.plan.warm_start_from):
            name = newest_checkpoint(storage) if storage and self.rank == 0 and chosen is None else None
            chosen = (storage, name) if name else chosen
        shared = [chosen]
        if self.world > 1:  # Rank 0 decides for all, whatever each could read.
            torch.distributed.broadcast_object_list(shared, src=0)
        if shared[0] is None:
            return
        state = read_state(*shared[0])
        load_state(self.method, self.optimizer, state)
        self.scheduler.load_state_dict(state["rate"])
        self.best.load_state_dict(state["selection"])
        self.history, self.stopped = state["history"], state["stopped"]
        # Counted in epochs and samples, so that another number of workers resumes at the same position.
        self.step = resumed_step(
            state["epoch"], state["epoch_samples"], self.global_batch, self.sampler.steps_per_epoch
        )
        if self.rank == 0:
            print(f"resumed at epoch {self.step / self.sampler.steps_per_epoch:.2f}", flush=True)

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [V, N, 3, H, W] and labels [N] on the device."""
        check_labels(batch.labels, self.faces.identities)  # on a GPU nothing can be checked without waiting for it
        images = to_device(torch.from_numpy(batch.images.copy()), self.device)  # [N, V, 3, H, W]
        samples, views = images.shape[:2]
        stacked = images.transpose(0, 1).flatten(0, 1)  # [V·N, 3, H, W]
        if self.settings.train.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        return stacked.unflatten(0, (views, samples)), to_device(torch.from_numpy(batch.labels.copy()), self.device)

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        train = self.settings.train
        torch.manual_seed(torch_seed(Purpose.DROPOUT, self.settings.seed, self.step, self.rank))
        learning_rate = self.scheduler.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
            output: StepOutput = self.wrapped(images, labels)
        output.loss.backward()
        metrics = {"loss": output.loss.detach(), **output.metrics}
        if train.clip_norm:
            metrics["gradient_norm"] = clip_gradients(self.method, train.clip_norm)
        self.optimizer.step()
        metrics["learning_rate"] = torch.tensor(learning_rate)
        metrics["augmentation_strength"] = torch.tensor(self.augmentation.strength(self.step))
        return metrics

    def _end_epoch(self, metrics: dict[str, float], seconds_left: float) -> None:
        train, epoch = self.settings.train, self.step // self.sampler.steps_per_epoch
        self._require_finite()
        if self.validator is not None:
            if epoch % train.evaluate_every == 0 or epoch == train.epochs:
                with torch.compiler.set_stance("force_eager"):  # its shapes would be compiled as well
                    result = self.validator.evaluate(self.method.backbone)
                metrics |= result.metrics
                selected = result.selected if train.selection != "last" else float(epoch)
                self.best.observe(selected, epoch, self.method.backbone)
                self.scheduler.observe(selected)
            metrics["epoch"] = epoch
            self.history.append(metrics)
            print(self.validator.line(metrics, train.epochs) + f", {format_seconds(seconds_left)} left", flush=True)
        if self.world > 1:
            self._broadcast_decisions()
        self.stopped = self.best.exhausted
        logged = {k: v for k, v in metrics.items() if k != "epoch"}
        self._checkpoint({"epoch": epoch, "step": self.step, LOGGED: logged})

    def _require_finite_loss(self, losses: "LossGuard") -> None:
        if (step := losses.first_bad_step()) is not None:
            raise self._diverged(step, "its loss is not a finite number")

    def _require_finite(self) -> None:
        """Checked before every checkpoint: a diverged state must not replace a good one."""
        if not all(bool(p.isfinite().all()) for p in self.method.parameters()):
            raise self._diverged(self.step, "weights are not finite")

    def _diverged(self, step: int, what: str) -> JobError:
        return JobError(
            f"step {step} (epoch {step / self.sampler.steps_per_epoch:.2f}): the training diverged, {what}. Lower "
            f"train.learning_rate (now {self.settings.train.learning_rate}) or set train.clip_norm, and start in a new "
            "output folder."
        )

    def _broadcast_decisions(self) -> None:
        """Rank 0 validates; the other ranks receive what decides the next epoch."""
        shared: list[Any] = [self.scheduler.state_dict(), self.best.waited] if self.rank == 0 else [None, None]
        torch.distributed.broadcast_object_list(shared, src=0)
        self.scheduler.load_state_dict(shared[0])
        self.best.waited = int(shared[1])

    def _checkpoint(self, metrics: dict[str, Any]) -> None:
        """A barrier of all ranks; rank 0 writes the state."""
        states = gather_state(self.method, self.optimizer)
        if self.rank != 0:
            self.context.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = {
                **states,
                "rate": self.scheduler.state_dict(),
                "selection": self.best.state_dict(),
                "history": self.history,
                "stopped": self.stopped,
                "normalization": getattr(self.method.backbone, "normalization", SYMMETRIC),
                "epoch": self.step // self.sampler.steps_per_epoch,
                "epoch_samples": self.step % self.sampler.steps_per_epoch * self.global_batch,
            }
            write_state(Path(folder) / STATE_NAME, state)
            self.context.report(metrics, folder)


class LossGuard:
    """Remembers the first step whose loss is not finite, on the device, so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.first = torch.full((), torch.inf, dtype=torch.float64, device=device)

    def observe(self, step: int, loss: torch.Tensor) -> None:
        """Look at the loss of a step, counted from 1."""
        self.first = torch.where(loss.isfinite() | self.first.isfinite(), self.first, float(step))

    def first_bad_step(self) -> int | None:
        """The first step with an infinite loss or NaN; None: there was none. Waits for the device."""
        first = float(self.first)
        return int(first) if math.isfinite(first) else None


class MetricAccumulator:
    """Means of an epoch's metrics, accumulated on the device so that no step synchronizes with the host."""

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
        """Add one step's metrics."""
        self.steps += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value.detach().float() if name in self.sums else value.detach().float()

    def result(self, device: torch.device) -> dict[str, float]:
        """Means, samples per second, and the share of time spent waiting for data."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - self.started
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        rate = self.samples_per_step * self.steps / seconds
        return {**means, "samples_per_second": rate, "data_wait_share": self.waited / seconds}
