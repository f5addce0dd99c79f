"""One DDP rank of a training: its state, the loop over steps and epochs, and its checkpoints.

Shapes: V views of a sample, N samples of a rank's batch, H rows and W columns of an image.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from facelib.models import network_entry
from facelib.models.pixels import SYMMETRIC
from facelib.utils import distributed
from facelib.utils.devices import autocast, set_cuda_precision
from facelib.utils.process import keep_freed_memory, return_memory
from facelib.utils.random_streams import Purpose, torch_seed
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, one_line_errors
from ray_jobs.progress import format_seconds
from ray_jobs.training.augmentation import AugmentationSpec, augments_on_device
from ray_jobs.training.callbacks import LOGGED, LOGGED_STEPS
from ray_jobs.training.checkpoint import newest_checkpoint, read_state_once_a_node, snapshot
from ray_jobs.training.context import RayTrainContext, TrainContext
from ray_jobs.training.continuation import continued_state, read_continuation, trained_epochs
from ray_jobs.training.device_prefetch import DevicePrefetcher, Inputs
from ray_jobs.training.loader import load_batches
from ray_jobs.training.methods import METHODS, StepOutput, backbone_kwargs
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.optim import BestCheckpoint, LRScheduler, build_optimizer, resumed_step
from ray_jobs.training.parallel import compile_encoders, distribute
from ray_jobs.training.plan import TrainingPlan
from ray_jobs.training.sampler import DistributedBatchSampler
from ray_jobs.training.sharded_state import clip_gradients, gather_state, load_state, share_overflow
from ray_jobs.training.validator import Validator, accuracies

# Steps leave freed memory scattered in the C library's arenas: 0.4 GB of a trainer's 1.1 after two minutes, and
# growing. Returning it to the system takes a third of a second.
RETURN_MEMORY_EVERY_S = 120.0
CHECK_LOSS_EVERY = 50  # steps; a check waits for the device
MAX_DECODING_THREADS = 16  # beside a GPU: together they decode more than the interpreter lock lets them hand over


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
        # One core is left to the reading tasks: oneDNN's backward kernels wait for each other in busy loops, and a
        # thread that loses its core makes a step ten times longer.
        self.threads = train.threads or max(1, (os.cpu_count() or 1) // context.local_world - 1)
        if self.device.type == "cpu":
            torch.set_num_threads(self.threads)
            keep_freed_memory()
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
        # Small gradients are zero in float16: they are scaled up, and a step whose gradients overflow is skipped.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=train.precision == "float16")
        self.scheduler = LRScheduler(train, self.sampler.steps_per_epoch, self.global_batch)
        self.best = BestCheckpoint(train.patience)
        self.augmentation = AugmentationSpec(settings.augment, train.epochs * self.sampler.steps_per_epoch)
        self.augmentation.build()  # A wrong setting is an error here, not in a reading task.
        self.validator = Validator(settings, self.faces.image_spec)
        self.history: list[dict[str, float]] = []
        self.step, self.stopped = 0, False
        self.stored_at = time.monotonic()  # the newest checkpoint, or the start

    def fit(self) -> None:
        """Train from `self.step` to the plan's last epoch, reporting every epoch."""
        per_epoch = self.sampler.steps_per_epoch
        last = self.plan.last_epoch * per_epoch
        stream = self._load(last)
        metrics = MetricAccumulator(self.global_batch)
        losses = LossGuard(self.device)
        started, first_step = time.monotonic(), self.step
        returned = started
        self.method.train()
        while self.step < last and not self.stopped:
            with metrics.waiting():
                inputs = next(stream)
            step_metrics = self._train_step(*inputs)
            metrics.add(step_metrics)
            self.step += 1
            losses.observe(self.step, step_metrics["loss"])
            if self.step % CHECK_LOSS_EVERY == 0 or self.step % per_epoch == 0:
                self._require_finite_loss(losses)
            left = (time.monotonic() - started) / (self.step - first_step) * (last - self.step)
            if self.step % per_epoch == 0:
                self._end_epoch(metrics.result(self.device), left)
                metrics = MetricAccumulator(self.global_batch)
            else:
                self._within_epoch(metrics, left)
            if time.monotonic() - returned > RETURN_MEMORY_EVERY_S:
                return_memory()
                returned = time.monotonic()

    def restore(self) -> None:
        """Load the newest intact checkpoint of this training, of the one it warm-starts from, or a published one."""
        chosen: tuple[str, str] | None = None
        for storage in (self.plan.storage, self.plan.warm_start_from):
            name = newest_checkpoint(storage) if storage and self.rank == 0 and chosen is None else None
            chosen = (storage, name) if name else chosen
        shared = [chosen]
        if self.world > 1:  # Rank 0 decides for all, whatever each could read.
            torch.distributed.broadcast_object_list(shared, src=0)
        if shared[0] is None:
            if self.settings.train.continue_from:
                self._continue_published()
            return
        state = read_state_once_a_node(*shared[0], self.context.local_rank, self._barrier, self.plan.uri)
        load_state(self.method, self.optimizer, state)
        self.scheduler.load_state_dict(state["rate"])
        if state.get("scaler"):  # empty without gradient scaling
            self.scaler.load_state_dict(state["scaler"])
        self.best.load_state_dict(state["selection"])
        self.history, self.stopped = state["history"], state["stopped"]
        # Counted in epochs and samples, so that another number of workers resumes at the same position.
        self.step = resumed_step(
            state["epoch"], state["epoch_samples"], self.global_batch, self.sampler.steps_per_epoch
        )
        if self.rank == 0:
            print(f"resumed at epoch {self.step / self.sampler.steps_per_epoch:.2f}", flush=True)

    def _continue_published(self) -> None:
        settings = self.settings
        training = read_continuation(settings, self.plan.method, self.faces.identities)
        epochs = trained_epochs(training, settings)
        self.step = epochs * self.sampler.steps_per_epoch
        load_state(self.method, self.optimizer, continued_state(training, self.method, self.optimizer, self.step))
        if self.rank == 0:
            optimizer = "" if training.momentum else "; without momentum, which the file does not hold"
            print(f"going on with {settings.train.continue_from} after epoch {epochs}{optimizer}", flush=True)

    def _barrier(self) -> None:
        if self.world > 1:
            torch.distributed.barrier()

    def _load(self, last: int) -> Iterator[Inputs]:
        """Images and labels of steps `self.step` … `last - 1`, on the device."""
        data, encoded = self.settings.data, augments_on_device(self.settings.augment, self.device)
        batches = load_batches(
            self.faces, self.sampler, self.rank, self.step, last, data, self.augmentation, encoded=encoded
        )
        return iter(self._prefetch(batches))

    def _prefetch(self, batches: Iterator[Any]) -> DevicePrefetcher:
        channels_last, threads = self.settings.train.channels_last, min(self.threads, MAX_DECODING_THREADS)
        classes = None if self.method.sampling.pairs else self.faces.identities
        return DevicePrefetcher(batches, self.device, self.augmentation, classes, channels_last, threads)

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        train = self.settings.train
        torch.manual_seed(torch_seed(Purpose.DROPOUT, self.settings.seed, self.step, self.rank))
        learning_rate = self.scheduler.at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, train.precision):
            output: StepOutput = self.wrapped(images, labels)
        self.scaler.scale(output.loss).backward()
        metrics = {"loss": output.loss.detach(), **output.metrics}
        if self.scaler.is_enabled():
            share_overflow(self.method)
            self.scaler.unscale_(self.optimizer)
        if train.clip_norm:
            metrics["gradient_norm"] = clip_gradients(self.method, train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        metrics["learning_rate"] = torch.tensor(learning_rate)
        metrics["augmentation_strength"] = torch.tensor(self.augmentation.strength(self.step))
        return metrics

    def _end_epoch(self, metrics: dict[str, float], seconds_left: float) -> None:
        train, epoch = self.settings.train, self.step // self.sampler.steps_per_epoch
        self._require_finite()
        if epoch % train.evaluate_every == 0 or epoch == train.epochs:
            metrics |= self._evaluate(epoch)
        metrics["epoch"] = epoch
        if self.rank == 0:
            self.history.append(metrics)
            print(self.validator.line(metrics, train.epochs) + f", {format_seconds(seconds_left)} left", flush=True)
        due = self._agree(self._is_due(final=epoch == self.plan.last_epoch or self.best.exhausted))
        self.stopped = self.best.exhausted
        logged = {k: v for k, v in metrics.items() if k != "epoch"}
        self._report({"epoch": epoch, "step": self.step, LOGGED: logged}, due)

    def _within_epoch(self, metrics: "MetricAccumulator", seconds_left: float) -> None:
        """Log line, evaluation and checkpoint, each if its step has come."""
        train, per_epoch = self.settings.train, self.sampler.steps_per_epoch
        step = self.step % per_epoch
        logged: dict[str, float] = {}
        if train.log_every and step % train.log_every == 0:
            logged = {**metrics.recent(), "learning_rate": self.scheduler.at(self.step - 1)}
            if self.rank == 0:
                print(self._step_line(logged, step, seconds_left), flush=True)
        if train.evaluate_every_steps and step % train.evaluate_every_steps == 0:
            found = self._evaluate(round(self.step / per_epoch, 3))
            if self.rank == 0:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
                print(f"step {step}/{per_epoch}: {shown}", flush=True)
            logged |= found
            self._agree(False)
        if train.checkpoint_every and self.step % train.checkpoint_every == 0:
            self._require_finite()
            self._report({"step": self.step, LOGGED_STEPS: logged}, self._agree(self._is_due()))
        elif logged:
            self._report({"step": self.step, LOGGED_STEPS: logged}, checkpoint=False)

    def _step_line(self, metrics: dict[str, float], step: int, seconds_left: float) -> str:
        epoch, per_epoch = self.step // self.sampler.steps_per_epoch + 1, self.sampler.steps_per_epoch
        return (
            f"epoch {epoch}, step {step}/{per_epoch}: loss {metrics['loss']:.3f}, {accuracies(metrics)}"
            f"{metrics['samples_per_second']:.0f} samples/s, learning rate {metrics['learning_rate']:.3g}, "
            f"{format_seconds(seconds_left)} left"
        )

    def _evaluate(self, epoch: float) -> dict[str, float]:
        """Metrics on the validation sets. All ranks share the work; rank 0 keeps the best model."""
        with torch.compiler.set_stance("force_eager"):  # its shapes would be compiled as well
            result = self.validator.evaluate(self.method.backbone)
        if self.rank == 0:
            selected = result.selected if self.settings.train.selection != "last" else float(epoch)
            self.best.observe(selected, epoch, self.method.backbone)
            self.scheduler.observe(selected)
        return result.metrics

    def _require_finite_loss(self, losses: "LossGuard") -> None:
        if (step := losses.first_bad_step()) is not None:
            raise self._diverged(step, "its loss is not a finite number")

    def _require_finite(self) -> None:
        """Checked before every checkpoint: a diverged state must not replace a good one."""
        if not torch.stack([p.isfinite().all() for p in self.method.parameters()]).all():
            raise self._diverged(self.step, "weights are not finite")

    def _diverged(self, step: int, what: str) -> JobError:
        return JobError(
            f"step {step} (epoch {step / self.sampler.steps_per_epoch:.2f}): the training diverged, {what}. Lower "
            f"train.learning_rate (now {self.settings.train.learning_rate}) or set train.clip_norm, and start in a new "
            "output folder."
        )

    def _is_due(self, final: bool = False) -> bool:
        """Whether to store a checkpoint: one was long enough ago and is not still being stored, or it is the last."""
        since = time.monotonic() - self.stored_at
        return final or (since >= self.settings.train.checkpoint_seconds and not self.context.storing)

    def _agree(self, due: bool) -> bool:
        """Rank 0 decides; the others receive what the next steps depend on, and whether a checkpoint is due."""
        if self.world == 1:
            return due
        shared: list[Any] = [self.scheduler.state_dict(), self.best.waited, due] if self.rank == 0 else [None] * 3
        torch.distributed.broadcast_object_list(shared, src=0)
        self.scheduler.load_state_dict(shared[0])
        self.best.waited = int(shared[1])
        return bool(shared[2])

    def _report(self, metrics: dict[str, Any], checkpoint: bool) -> None:
        """A barrier of all ranks. With `checkpoint`, rank 0 hands over the state as it is now."""
        state = None
        if checkpoint:
            self.stored_at = time.monotonic()
            states = gather_state(self.method, self.optimizer)
            if self.rank == 0:
                normalization = getattr(self.method.backbone, "normalization", SYMMETRIC)
                state = {
                    **snapshot(states),
                    **self._network_entry(normalization),
                    "rate": self.scheduler.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "selection": self.best.state_dict(),
                    "history": list(self.history),
                    "stopped": self.stopped,
                    "normalization": normalization,
                    "epoch": self.step // self.sampler.steps_per_epoch,
                    "epoch_samples": self.step % self.sampler.steps_per_epoch * self.global_batch,
                }
        self.context.report(metrics, state)

    def _network_entry(self, normalization: str) -> dict[str, Any]:
        """What makes the state a checkpoint of the network as it is now, for evaluation."""
        backbone, model = self.method.backbone, self.settings.model
        prefix = next(name for name, module in self.method.named_modules() if module is backbone)
        training = {"epoch": self.step / self.sampler.steps_per_epoch}
        image_spec = {**self.faces.image_spec.model_dump(), "training": training}
        return network_entry(f"{prefix}.", model.name, backbone_kwargs(model), image_spec, normalization)


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
    """Means of an epoch's metrics over steps and ranks, which have equal batches.

    They are accumulated on the device, so that no step synchronizes with the host or with other ranks: `recent` and
    `result` do, and all ranks call them together.
    """

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step, self.steps, self.waited = samples_per_step, 0, 0.0
        self.sums: dict[str, torch.Tensor] = {}
        self.started = time.monotonic()
        self.mark: tuple[int, float, dict[str, float]] = 0, self.started, {}

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

    def recent(self) -> dict[str, float]:
        """Means and samples per second since the last call; waits for the device."""
        steps, began, before = self.mark
        sums = self._over_ranks()
        self.mark = self.steps, time.monotonic(), sums
        count = self.steps - steps
        means = {name: (value - before.get(name, 0.0)) / count for name, value in sums.items()}
        return {**means, "samples_per_second": self.samples_per_step * count / (self.mark[1] - began)}

    def result(self, device: torch.device) -> dict[str, float]:
        """Means, samples per second, and the share of time spent waiting for data."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - self.started
        means = {name: value / self.steps for name, value in self._over_ranks().items()}
        rate = self.samples_per_step * self.steps / seconds
        return {**means, "samples_per_second": rate, "data_wait_share": self.waited / seconds}

    def _over_ranks(self) -> dict[str, float]:
        """The sums, averaged over the ranks."""
        if not self.sums:
            return {}
        # Some are on the host: known there without asking the device.
        device = next((v.device for v in self.sums.values() if v.device.type != "cpu"), torch.device("cpu"))
        values = distributed.all_reduce(torch.stack([value.to(device) for value in self.sums.values()]), "mean")
        return dict(zip(self.sums, values.tolist(), strict=True))
