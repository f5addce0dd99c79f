"""What can be found wrong in a job's settings before it starts, claims a folder or waits for a cluster."""

import contextlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from facelib.alignment import TEMPLATES, build_detector
from facelib.config import AlignSettings, Settings, SettingsError, change_settings
from facelib.contrastive import MoCo
from facelib.evaluation.protocols import SetSpec, parse_spec
from facelib.evaluation.roc import check_fars
from facelib.sources import build_source
from facelib.synthesis import build_generator
from facelib.tuning.space import SearchSpace, check_space
from facelib.tuning.validation import check_fields, check_tune
from ray_jobs.datasets.generation import device_options
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
        "generate": _check_generate,
        "import_data": _check_import,
        "train_ssl": _check_ssl,
        "train_unpg": _check_unpg,
        "evaluate": _check_evaluate,
        "embed": _check_aligned,
        "export": _check_aligned,
        "inspect_dataset": _check_inspect,
        "tune": _check_tune,
    }
    if job in checks:
        checks[job](settings)
    needed = {
        "model.init_from": settings.model.init_from if job in CHECKPOINTS or job == "tune" else "",
        "inspect.model": settings.inspect.model if job == "inspect_dataset" else "",
    }
    for field, value in needed.items():
        path = settings.path(value) if value else ""
        if path and "://" not in path and path not in coming and not Path(path).is_file():
            raise SettingsError(f"{field}: {path} does not exist")


def _check_generate(settings: Settings) -> None:
    generate = settings.generate
    limit = _check_faces(settings, 1 if not settings.data.stream else 0)
    if limit is not None and generate.heldout_identities:
        raise SettingsError(
            f"generate.heldout_identities: generator {generate.generator} has a limited number of identities, none of "
            "them kept apart; set it to 0, and train.selection to last or sets"
        )


def _check_faces(settings: Settings, epochs: int) -> int | None:
    """Generator, detector and template, and that there are new identities for `epochs`. Returns how many there are."""
    generate, align = settings.generate, settings.align
    with _field("generate.generator, generate.options, generate.gpus_per_actor"):
        generator = build_generator(generate.generator, **device_options(generate.options, generate.gpus_per_actor))
    _check_align(align)
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


def _check_align(align: AlignSettings, detector: bool = True) -> None:
    if detector:
        with _field("align.detector, align.options"):
            build_detector(align.detector, **align.options)
    if align.template not in TEMPLATES:
        raise SettingsError(f"align.template: unknown {align.template!r}; there are {', '.join(TEMPLATES)}")


def _check_aligned(settings: Settings) -> None:
    _check_align(settings.align)


def _check_import(settings: Settings) -> None:
    cfg, align = settings.import_data, settings.align
    if not cfg.path:
        raise SettingsError("import_data.path: empty; give the folder or file to import")
    with _field("import_data.source, import_data.path, import_data.options"):
        source = build_source(cfg.source, cfg.path, **cfg.options)
    alignment = source.alignment if cfg.alignment == "auto" else cfg.alignment
    _check_align(align, detector=alignment == "detect")
    if alignment == "given" and source.alignment != "given":
        raise SettingsError(f"import_data.alignment: {cfg.source} knows no landmarks here; set it to detect or none")
    if (cfg.duplicates == "embedding" or cfg.overlap_sets) and not cfg.model:
        raise SettingsError("import_data.model: empty; duplicates=embedding and overlap_sets need a checkpoint")
    model = settings.path(cfg.model)
    if cfg.model and "://" not in model and not Path(model).is_file():
        raise SettingsError(f"import_data.model: {model} does not exist")
    _check_sets("import_data.overlap_sets", cfg.overlap_sets)


def _check_training(settings: Settings) -> None:
    model, train = settings.model, settings.train
    with _field("model.name, model.options"), torch.device("meta"):
        backbone = new_backbone(model)
    size = getattr(backbone, "image_size", settings.align.size)
    if size != settings.align.size:
        raise SettingsError(
            f"model.options: the network takes pictures of {size} pixels, align.size is {settings.align.size}"
        )
    with _field("augment.options"):
        Augmentation(settings.augment, 1).build()
    for spec in _check_sets("train.sets", train.sets):
        if spec.protocol != "pairs":
            raise SettingsError(
                f"train.sets: {spec.name} has protocol {spec.protocol}; only pairs are watched in training"
            )


def _check_ssl(settings: Settings) -> None:
    _check_training(settings)
    if settings.data.stream:
        _check_faces(settings, settings.train.epochs)
    _check_options("ssl.options", settings.ssl.options, MoCo)
    batch = settings.train.batch_size * settings.train.workers
    if settings.ssl.queue_size < batch:
        raise SettingsError(
            f"ssl.queue_size: {settings.ssl.queue_size} keys cannot hold one global batch of {batch} "
            "(train.batch_size x train.workers)"
        )


def _check_unpg(settings: Settings) -> None:
    _check_training(settings)
    if settings.data.stream and _check_faces(settings, 1) is not None:
        raise SettingsError(
            f"data.stream: generator {settings.generate.generator} has a limited number of identities and pictures, "
            "and every epoch would need new pictures of them; make a dataset with ray_jobs.generate"
        )
    unpg = settings.unpg
    _check_options("unpg.options", unpg.options, HEADS[unpg.head])
    if (unpg.triplet or unpg.contrastive) and importlib.util.find_spec("pytorch_metric_learning") is None:
        raise SettingsError("unpg.triplet, unpg.contrastive: pip install 'facelib[metric-learning]'")


def _check_evaluate(settings: Settings) -> None:
    cfg = settings.evaluate
    with _field("evaluate.fars"):
        check_fars(cfg.fars)
    for name, values in (("evaluate.sets", cfg.sets), ("evaluate.models", cfg.models)):
        if not values:
            raise SettingsError(f"{name}: empty, so there is nothing to judge")
    if min(cfg.ranks, default=1) < 1 or not all(0 < fpir < 1 for fpir in cfg.fpirs):
        raise SettingsError(
            f"evaluate.ranks, evaluate.fpirs: {cfg.ranks} must be 1 or more, {cfg.fpirs} within 0 and 1"
        )
    specs = _check_sets("evaluate.sets", [spec for spec in cfg.sets if spec != "heldout"])
    names = [spec.name for spec in specs] + ["heldout"] * ("heldout" in cfg.sets)
    if cfg.threshold_set and cfg.threshold_set not in names:
        raise SettingsError(f"evaluate.threshold_set: no set is called {cfg.threshold_set!r}; there are {names}")


def _check_inspect(settings: Settings) -> None:
    texts = settings.inspect.sets
    if not texts:
        raise SettingsError("inspect.sets: empty, so there is nothing to look at")
    with _field("inspect.sets"):
        names = [parse_spec(text).name for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"inspect.sets: {name} is there twice; give the sets names, name=path")
    _check_sets("inspect.sets", [text for text in texts if text.endswith(".bin")])


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


def _check_options(field: str, options: dict[str, Any], target: type) -> None:
    known = [name for name in inspect.signature(target).parameters if name != "encoder"]
    for name in options:
        if name not in known:
            raise SettingsError(f"{field}: {target.__name__} has no setting {name!r}; there are {', '.join(known)}")


def _check_sets(field: str, texts: list[str]) -> list[SetSpec]:
    specs = []
    for text in texts:
        with _field(field):
            specs.append(parse_spec(text))
        for path in specs[-1].files:
            if "://" not in path and not Path(path).exists():
                raise SettingsError(f"{field}: {path} does not exist")
    return specs


@contextlib.contextmanager
def _field(name: str) -> Iterator[None]:
    """A component's own complaint, with the setting it came from in front."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise SettingsError(f"{name}: {error}") from None
