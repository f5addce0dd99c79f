"""Checks of settings that several jobs share. Each job's own are in its `validate`, run before anything starts."""

import contextlib
import inspect
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facelib.alignment import TEMPLATES, build_detector
from facelib.config import AlignSettings, ModelSettings, Settings, SettingsError
from facelib.data import MANIFEST_NAME, FaceDataset, Folder
from facelib.data.fingerprint import check_output_dir
from facelib.data.lock import check_not_in_use
from facelib.evaluation.protocols import SetSpec, parse_spec
from ray_jobs.datasets.generation import UNALIGNED, make_generator

if TYPE_CHECKING:
    from ray_jobs.training.faces import TrainingFaces

HELDOUT_FIRST_IDENTITY = 2**40


def check_faces(settings: Settings, epochs: int) -> int | None:
    """Check generator, detector and template, and that there are new identities for `epochs` epochs.

    Returns:
        Number of identities of a generator that has a limited number; None: unlimited.
    """
    generate, align = settings.generate, settings.align
    with checked_field("generate.generator, generate.options, generate.gpus_per_actor"):
        generator = make_generator(generate, generate.gpus_per_actor)
    if align.detector == UNALIGNED and settings.data.stream:
        raise SettingsError("align.detector: none, but data.stream trains on aligned faces; choose a detector")
    check_align(align, detector=align.detector != UNALIGNED)
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
    """Check the template, and that the detector can be built."""
    if detector:
        with checked_field("align.detector, align.options"):
            build_detector(align.detector, **align.options)
    if align.template not in TEMPLATES:
        raise SettingsError(f"align.template: unknown {align.template!r}; there are {', '.join(TEMPLATES)}")


def check_training(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check what both training methods use: network, starting weights, augmentation, validation sets."""
    # Here, because most jobs need no network: PyTorch takes a second.
    from facelib.augmentation import RandAugment
    from facelib.models import shapes_only
    from ray_jobs.training.augmentation import AugmentationSpec
    from ray_jobs.training.methods import new_backbone

    model, train = settings.model, settings.train
    with checked_field("model.name, model.options"), shapes_only():
        backbone = new_backbone(model)
    size = getattr(backbone, "image_size", settings.align.size)
    if size != settings.align.size:
        raise SettingsError(
            f"model.options: the network takes images of {size} pixels, but align.size is {settings.align.size}"
        )
    if train.batch_size == 1:
        _check_single_samples(model, size)
    with checked_field("augment.operations"):
        RandAugment(operations=settings.augment.operations)
    with checked_field("augment.options"):
        AugmentationSpec(settings.augment, 1).build()
    specs = check_sets("train.sets", train.sets, upcoming)
    check_unique("train.sets", [spec.name for spec in specs], "give the sets names, name=path")
    names = [spec.name for spec in specs]
    if unknown := [name for name in train.selection_sets if name not in names]:
        raise SettingsError(f"train.selection_sets: no set of train.sets is named {unknown[0]}; {', '.join(names)} are")
    if train.selection == "sets" and train.selection_metric != "auto":
        for spec in specs:
            if not train.selection_sets or spec.name in train.selection_sets:
                _check_selection_metric(settings, spec)
    check_checkpoint_exists(settings, "model.init_from", model.init_from, upcoming)
    check_checkpoint_exists(settings, "train.continue_from", train.continue_from, upcoming)
    if train.continue_from and model.init_from:
        raise SettingsError("train.continue_from, model.init_from: both name the first weights; leave one empty")
    if train.use_gpu and train.workers > 1 and train.gpus_per_worker < 1:
        raise SettingsError(
            f"train.gpus_per_worker: {train.gpus_per_worker:g} with train.workers={train.workers}: NCCL refuses two "
            "workers of a training on one GPU; set it to 1, or train.workers to 1"
        )


def _check_selection_metric(settings: Settings, spec: SetSpec) -> None:
    """Refuse a metric that the protocol of a set does not have; protocols of others are asked after the first epoch."""
    from ray_jobs.embedding.rules import evaluation_options

    scores = ["auc", "tar_at_far_"]
    if spec.protocol.startswith("kface") and evaluation_options(settings).accuracy_rule == "best_threshold":
        scores.append("accuracy")
    known = {"pairs": ["accuracy", *scores], "ijb": scores, "ijb-1n": ["rank_", "tpir_at_fpir_"]}
    kinds = known.get(spec.protocol, scores if spec.protocol.startswith("kface-") else None)
    if kinds is not None and not settings.train.selection_metric.startswith(tuple(kinds)):
        names = ", ".join(f"{kind}<number>" if kind.endswith("_") else kind for kind in kinds)
        raise SettingsError(
            f"train.selection_metric: set {spec.name} has no {settings.train.selection_metric}: choose one of {names}"
        )


def _check_single_samples(model: ModelSettings, size: int) -> None:
    """Refuse `train.batch_size` 1 for a network that normalizes single values over the batch."""
    import torch

    from ray_jobs.training.methods import new_backbone

    try:
        with torch.no_grad():
            new_backbone(model).train()(torch.zeros(1, 3, size, size))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SettingsError(
            f"train.batch_size: 1, but the last BatchNorm of {model.name} needs two samples or more per worker"
        ) from None


def check_options(field: str, options: dict[str, Any], target: type) -> None:
    """Check that `target` has a constructor parameter for each option."""
    known = [name for name in inspect.signature(target).parameters if name not in ("encoder", "preprocess")]
    for name in options:
        if name not in known:
            raise SettingsError(f"{field}: {target.__name__} has no setting {name!r}; there are {', '.join(known)}")


def check_sets(field: str, texts: list[str], upcoming: Collection[str] = ()) -> list[SetSpec]:
    """Parse evaluation sets and check that their local files exist, or will."""
    specs = []
    for text in texts:
        with checked_field(field):
            specs.append(parse_spec(text))
        for path in specs[-1].files:
            if "://" not in path and not Path(path).exists() and not is_upcoming(str(Path(path).absolute()), upcoming):
                raise SettingsError(f"{field}: {path} does not exist")
    return specs


@contextlib.contextmanager
def checked_field(name: str) -> Iterator[None]:
    """Turn an error of the component that a setting describes into a `SettingsError` that names the setting."""
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
    if path and "://" not in path and not is_upcoming(path, upcoming) and not Path(path).is_file():
        raise SettingsError(f"{field}: {path} does not exist")


def check_training_output(settings: Settings, method: str, upcoming: Collection[str] = ()) -> None:
    """Check that the training's datasets are there, and that its folder is free and of the same settings.

    Raises:
        DatasetError: what is missing, in use or different.
    """
    from ray_jobs.training.continuation import read_continuation
    from ray_jobs.training.extension import check_extension
    from ray_jobs.training.plan import training_spec

    faces = find_training_faces(settings, upcoming)
    if settings.train.continue_from and faces is not None:
        read_continuation(settings, method, faces.identities)
    if faces is None:
        check_output(settings.path(method))
    else:
        spec = training_spec(settings, faces, method)
        check_extension(settings, Folder(settings.path(method)), spec)
        check_output(settings.path(method), spec, "train.epochs")


def find_training_faces(settings: Settings, upcoming: Collection[str] = ()) -> "TrainingFaces | None":
    """The faces to train on; None while earlier stages of a pipeline have yet to write something that training reads.

    Raises:
        DatasetError: a dataset is missing.
    """
    from ray_jobs.training.online_faces import training_faces

    data = settings.data
    names = [data.dataset] * (not data.stream) + [data.heldout] * (settings.train.selection == "heldout")
    known = [open_dataset(settings, name, upcoming) is not None for name in names]
    weights = [settings.path(value) for value in (settings.model.init_from, settings.train.continue_from) if value]
    if not all(known) or any(is_upcoming(path, upcoming) and not Path(path).is_file() for path in weights):
        return None
    return training_faces(settings)


def open_dataset(settings: Settings, name: str, upcoming: Collection[str] = ()) -> FaceDataset | None:
    """Open a finished dataset; None: it is not there yet, and an earlier stage of the pipeline will write it.

    Raises:
        DatasetError: it is missing or unfinished.
    """
    path = settings.path(name)
    if is_upcoming(path, upcoming) and not Folder(path).exists(MANIFEST_NAME):
        return None
    return FaceDataset(path)


def check_output(uri: str, spec: dict[str, Any] | None = None, growing: str = "") -> None:
    """Refuse an output folder that a running job holds or that was made with other settings; nothing is written.

    Args:
        uri: folder of a job's results, which need not exist.
        spec: what decides the results; None: not known yet.
        growing: field of the spec that may be larger than it was.

    Raises:
        DatasetError: names the process, or every setting that differs.
    """
    folder = Folder(uri)
    check_not_in_use(folder)
    if spec is not None:
        check_output_dir(folder, spec, growing)


def is_upcoming(path: str, upcoming: Collection[str]) -> bool:
    """Whether earlier stages of a pipeline will write a file or folder, or a folder that it is in."""
    return any(path == written or path.startswith(f"{written}/") for written in upcoming)
