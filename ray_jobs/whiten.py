"""Within-class whitening of trained models: better verification from the same network, fitted on synthetic identities.

Writes <model>-whitened.pt beside each checkpoint of whiten.models: the same architecture with another last layer, which
every other job takes as it takes the model. Its embeddings differ alike in all directions between images of one
identity of whiten.faces (WCCN, see facelib.models.whitening).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from facelib.config import EmbedSettings, Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facelib.data import ImageSpec
    from facelib.models import WithinClassWhitening
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check that the models and the faces exist.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: the dataset is missing.
    """
    from ray_jobs.validation import check_checkpoint_exists, check_unique, open_dataset

    cfg = settings.whiten
    if not cfg.models:
        raise SettingsError("whiten.models: empty; give at least one checkpoint")
    check_unique("whiten.models", cfg.models, "give each checkpoint once")
    for model in cfg.models:
        check_checkpoint_exists(settings, "whiten.models", model, upcoming)
    open_dataset(settings, cfg.faces, upcoming)


@job
def whiten(settings: Settings, run: Run) -> JobResult:
    """Whiten `settings.whiten.models` one after the other."""
    from facelib.data import FaceDataset
    from facelib.models import WithinClassWhitening
    from ray_jobs.datasets.dataset_report import log_dataset
    from ray_jobs.embed import model_image_spec

    cfg = settings.whiten
    log_dataset(run, FaceDataset(settings.path(cfg.faces)), "train")
    written: list[str] = []
    metrics: dict[str, float] = {}
    for model in cfg.models:
        path = settings.path(model)
        image_spec = model_image_spec(settings, path, "whiten.models")
        embeddings, identities = embed_faces(settings, path, image_spec)
        try:
            whitening = WithinClassWhitening.fit(embeddings, identities, cfg.shrinkage)
            written.append(write_whitened(settings, run, model, image_spec, whitening))
        except ValueError as error:
            raise JobError(f"whiten.models: {path}, on {settings.path(cfg.faces)}: {error}") from error
        print(f"{written[-1]}: whitened by {whitening.images} images of {whitening.identities} identities", flush=True)
        metrics |= {f"{model}/images": float(whitening.images), f"{model}/identities": float(whitening.identities)}
    run.log_metrics(metrics)
    return JobResult(written=tuple(written), metrics=metrics)


def embed_faces(settings: Settings, model: str, image_spec: ImageSpec) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings [N, D] by a model of up to about `whiten.images` of the faces, and their identities [N]."""
    import numpy as np
    import pyarrow as pa

    from ray_jobs.embedding.stream import embedding_stream
    from ray_jobs.embedding.tasks import list_input
    from ray_jobs.progress import ProgressReport

    cfg = settings.whiten
    embed = EmbedSettings(
        model=model, input=cfg.faces, flip="none", normalize=False, actors=cfg.actors,
        cpus_per_actor=cfg.cpus_per_actor, gpus_per_actor=cfg.gpus_per_actor,
    )  # fmt: skip
    tasks = list_input(embed, settings.path(cfg.faces), image_spec).tasks
    step = max(1, sum(task.images for task in tasks) // cfg.images)
    chosen = tasks[::step]
    tables: dict[tuple[int, int], pa.Table] = {}
    with ProgressReport("embedding", sum(task.images for task in chosen)) as progress:
        own = settings.model_copy(update={"embed": embed})
        for task, table in embedding_stream(own, model, image_spec, chosen):
            progress.advance(len(table))
            tables[task.part, task.number] = table
    table = pa.concat_tables([tables[key] for key in sorted(tables)])
    table = table.filter(table["embedding"].is_valid())
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    return vectors, table["identity"].to_numpy()


def write_whitened(
    settings: Settings, run: Run, model: str, image_spec: ImageSpec, whitening: WithinClassWhitening
) -> str:
    """Write the whitened network beside its model and log it; returns the path or URI."""
    from facelib.data import Folder
    from facelib.models import backbone_of, read_checkpoint, save_backbone

    source, target = settings.path(model), settings.path(settings.whiten.target(model))
    checkpoint = read_checkpoint(source)
    backbone = whitening.fold_into(backbone_of(checkpoint, source))
    normalization = checkpoint.require_normalization(source, settings.model.normalization)
    backbone.normalization = normalization  # type: ignore[assignment]
    how: dict[str, Any] = {"faces": settings.path(settings.whiten.faces), "images": whitening.images,
           "identities": whitening.identities, "shrinkage": settings.whiten.shrinkage}  # fmt: skip
    spec = {**(checkpoint.image_spec or {}), **image_spec.model_dump(), "whitening": how}
    folder, _, name = target.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        save_backbone(path, backbone, checkpoint.name, checkpoint.settings, spec)
        Folder(folder).write(name, path.read_bytes())
        run.log_model(path, f"{settings.name}-{PurePosixPath(target).stem}", checkpoint.name, **how)
    return target


if __name__ == "__main__":
    main(whiten)
