"""What can be found wrong in a job's settings before it starts, claims a folder or waits for a cluster."""

import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from facelib.alignment import TEMPLATES, build_detector
from facelib.config import AlignSettings, Settings, SettingsError, change_settings
from facelib.contrastive import MoCo
from facelib.evaluation.protocols import SetSpec, parse_spec
from facelib.synthesis import build_generator
from facelib.tuning.space import SearchSpace, check_space
from facelib.tuning.validation import check_fields, check_tune
from ray_jobs.actors import device_options
from ray_jobs.training.loader import Augmentation
from ray_jobs.training.methods import HEADS, new_backbone

HELDOUT_FIRST_IDENTITY = 2**40
CHECKPOINTS = {"train_ssl": "ssl/model.pt", "train_unpg": "unpg/model.pt"}  # what a job leaves, below its output


def preflight(settings: Settings, job: str, coming: Collection[str] = ()) -> None:
    """Check what `job` will use of the settings.

    Args:
        coming: checkpoints that stages before it will have written.

    Raises:
        SettingsError: names the field, what is wrong with it and what there is to choose from.
    """
    checks: dict[str, Callable[[Settings], None]] = {
        "train_ssl": _check_ssl,
        "train_unpg": _check_unpg,
        "tune": _check_tune,
    }
    if job in checks:
        checks[job](settings)
        check_checkpoint_exists(settings, "model.init_from", settings.model.init_from, coming)
    elif job in ("generate", "import_data", "evaluate", "embed", "export", "inspect_dataset"):
        importlib.import_module(f"ray_jobs.{job}").validate(settings, coming)


def check_faces(settings: Settings, epochs: int) -> int | None:
    """Generator, detector and template, and that there are new identities for `epochs`. Returns how many there are."""
    generate, align = settings.generate, settings.align
    with checked_field("generate.generator, generate.options, generate.gpus_per_actor"):
        generator = build_generator(generate.generator, **device_options(generate.options, generate.gpus_per_actor))
    check_align(align)
    last, times = generate.first_identity + generate.identities * epochs, f" in {epochs} epochs" * (epochs > 1)
    if last > HELDOUT_FIRST_IDENTITY:
        raise SettingsError(
            f"generate.first_identity, generate.identities: numbers up to {last}{times}; those from 2^40 on are kept "
            "for held-out identities"
        )
    limit = generator.identities
    if limit is not None and last > limit:
        raise SettingsError(f"generate.identities: generator {generator.name} has only {limit}, not {last}{times}")
    return limit


def check_align(align: AlignSettings, detector: bool = True) -> None:
    if detector:
        with checked_field("align.detector, align.options"):
            build_detector(align.detector, **align.options)
    if align.template not in TEMPLATES:
        raise SettingsError(f"align.template: unknown {align.template!r}; there are {', '.join(TEMPLATES)}")


def _check_training(settings: Settings) -> None:
    model, train = settings.model, settings.train
    with checked_field("model.name, model.options"), torch.device("meta"):
        backbone = new_backbone(model)
    size = getattr(backbone, "image_size", settings.align.size)
    if size != settings.align.size:
        raise SettingsError(
            f"model.options: the network takes pictures of {size} pixels, align.size is {settings.align.size}"
        )
    with checked_field("augment.options"):
        Augmentation(settings.augment, 1).build()
    for spec in check_sets("train.sets", train.sets):
        if spec.protocol != "pairs":
            raise SettingsError(
                f"train.sets: {spec.name} has protocol {spec.protocol}; only pairs are watched in training"
            )


def _check_ssl(settings: Settings) -> None:
    _check_training(settings)
    if settings.data.stream:
        check_faces(settings, settings.train.epochs)
    check_options("ssl.options", settings.ssl.options, MoCo)
    batch = settings.train.batch_size * settings.train.workers
    if settings.ssl.queue_size < batch:
        raise SettingsError(
            f"ssl.queue_size: {settings.ssl.queue_size} keys cannot hold one global batch of {batch} "
            "(train.batch_size x train.workers)"
        )


def _check_unpg(settings: Settings) -> None:
    _check_training(settings)
    if settings.data.stream and check_faces(settings, 1) is not None:
        raise SettingsError(
            f"data.stream: generator {settings.generate.generator} has a limited number of identities and pictures, "
            "and every epoch would need new pictures of them; make a dataset with ray_jobs.generate"
        )
    unpg = settings.unpg
    check_options("unpg.options", unpg.options, HEADS[unpg.head])
    if (unpg.triplet or unpg.contrastive) and importlib.util.find_spec("pytorch_metric_learning") is None:
        raise SettingsError("unpg.triplet, unpg.contrastive: pip install 'facelib[metric-learning]'")


def _check_tune(settings: Settings) -> None:
    """The space, its fields and its corners: each as the training itself would be checked."""
    train = {"ssl": _check_ssl, "unpg": _check_unpg}[settings.tune.method]
    if settings.data.stream:
        raise SettingsError("data.stream: trials are compared on one stored dataset; make it with ray_jobs.generate")
    check_tune(settings)
    space = SearchSpace(settings.tune.space, settings)
    check_fields(space, settings)
    train(settings)
    check_space(space, train)
    change_settings(settings, settings.tune.final, "tune.final")


def check_options(field: str, options: dict[str, Any], target: type) -> None:
    known = [name for name in inspect.signature(target).parameters if name != "encoder"]
    for name in options:
        if name not in known:
            raise SettingsError(f"{field}: {target.__name__} has no setting {name!r}; there are {', '.join(known)}")


def check_sets(field: str, texts: list[str]) -> list[SetSpec]:
    specs = []
    for text in texts:
        with checked_field(field):
            specs.append(parse_spec(text))
        for path in specs[-1].files:
            if "://" not in path and not Path(path).exists():
                raise SettingsError(f"{field}: {path} does not exist")
    return specs


@contextlib.contextmanager
def checked_field(name: str) -> Iterator[None]:
    """A component's own complaint, with the setting it came from in front."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise SettingsError(f"{name}: {error}") from None


def check_unique(field: str, names: Sequence[str], advice: str) -> None:
    """Refuse duplicates among the names that a setting gives its entries."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{field}: duplicate name {name}; {advice}")


def check_checkpoint_exists(settings: Settings, field: str, value: str, upcoming: Collection[str] = ()) -> None:
    """Refuse a local checkpoint that does not exist; one behind a URI is looked up when it is loaded.

    Args:
        field: setting that names the checkpoint, for the message.
        value: its value, relative to `output`; empty: none.
        upcoming: paths that earlier stages of a pipeline will have written.
    """
    path = settings.path(value) if value else ""
    if path and "://" not in path and path not in upcoming and not Path(path).is_file():
        raise SettingsError(f"{field}: {path} does not exist")
