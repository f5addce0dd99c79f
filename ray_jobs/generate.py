"""Generate synthetic identities and store them as aligned face datasets.

Writes <output>/faces for training, unless data.stream lets training generate its own faces, and <output>/heldout for
model selection, unless generate.heldout_identities is 0.
A killed job continues: finished parts are kept, and the result is the same bytes. So does one that asks for more
identities than a finished dataset has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.data import FaceDataset
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check generator, detector, template, identity ranges and the output folders before anything starts.

    Prints which generator draws, and under which license.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: an output folder is in use, or was made with other settings.
    """
    from ray_jobs.validation import check_faces, check_output

    generate = settings.generate
    limit = check_faces(settings, 1 if not settings.data.stream else 0)
    if limit is not None and generate.heldout_identities:
        raise SettingsError(
            f"generate.heldout_identities: generator {generate.generator_name} has a limited number of identities, "
            "none of them held out; set it to 0, and train.selection to last or sets"
        )
    datasets = planned_datasets(settings)
    if not datasets:
        raise SettingsError(
            "nothing to do: with data.stream=true training generates its own faces, and generate.heldout_identities "
            "is 0. Set generate.heldout_identities, or skip this job"
        )
    spec: dict[str, Any] = {}
    for name, first, identities in datasets:
        spec = dataset_spec(settings, first, identities)
        check_output(settings.path(name), spec, "identities")
    print(f"faces: generator {generate.generator_name}, license: {spec['generator_licence']}", flush=True)


@job
def generate(settings: Settings, run: Run) -> JobResult:
    """Generate the training dataset and the held-out dataset that the settings describe."""
    from ray_jobs.datasets.dataset_report import dataset_metrics

    datasets = [make_dataset(settings, *planned, run) for planned in planned_datasets(settings)]
    return JobResult(
        written=tuple(dataset.folder.uri for dataset in datasets),
        metrics={name: number for dataset in datasets for name, number in dataset_metrics(dataset).items()},
    )


def planned_datasets(settings: Settings) -> list[tuple[str, int, int]]:
    """Name, first identity and number of identities of each dataset that the settings describe."""
    from ray_jobs.validation import HELDOUT_FIRST_IDENTITY

    cfg, data = settings.generate, settings.data
    planned = [] if data.stream else [(data.dataset, cfg.first_identity, cfg.identities)]
    if cfg.heldout_identities and data.heldout:
        # Numbered far above any training range, so that no setting of sizes can make the two overlap.
        planned.append((data.heldout, HELDOUT_FIRST_IDENTITY, cfg.heldout_identities))
    return planned


def make_dataset(settings: Settings, name: str, first: int, identities: int, run: Run) -> FaceDataset:
    """Generate one dataset, or what is missing of it."""
    from facelib.data import MANIFEST_NAME, Folder
    from facelib.data.fingerprint import claim_output_dir
    from facelib.data.lock import directory_lock
    from ray_jobs.datasets.dataset_report import report_dataset
    from ray_jobs.datasets.writing import write_generated_parts

    folder = Folder(settings.path(name)).create()
    spec = dataset_spec(settings, first, identities)
    with directory_lock(folder, "generate"):
        claim_output_dir(folder, spec, "identities", MANIFEST_NAME)
        if not folder.exists(MANIFEST_NAME):
            write_generated_parts(folder, settings, spec, name)
    return report_dataset(folder, name, run)


def dataset_spec(settings: Settings, first: int, identities: int) -> dict[str, Any]:
    """All settings that decide the dataset's bytes, and no others."""
    from ray_jobs.datasets.generation import faces_spec

    identity_range = {
        "first_identity": first,
        "identities": identities,
        "identities_per_part": settings.generate.identities_per_part,
    }
    return {**faces_spec(settings), **identity_range}


if __name__ == "__main__":
    main(generate)
