"""What a run says about itself: parameters to compare runs by, who started what from which commit, a note."""

import contextlib
import getpass
import subprocess
from pathlib import Path
from typing import Any

from facelib.config import Settings, settings_to_yaml
from facelib.config.help_text import JOB_SETTINGS

# Settings of where a job runs, how fast, and what it keeps: no one compares runs by them, and settings.json has them.
_OPERATIONAL = {
    "actors", "cpus_per_actor", "gpus_per_actor", "identities_per_part", "identities_per_task", "images_per_part",
    "images_per_task", "threads", "decoders", "cache", "folder", "readers", "read_ahead", "cpus_per_reader",
    "min_workers", "cpus_per_worker", "gpus_per_worker", "use_gpu", "channels_last", "compile", "checkpoint_every",
    "keep_checkpoints", "max_failures", "concurrency", "in_process", "heatmap", "final", "mlflow", "evaluate_every",
    "extend", "tf32", "cudnn_benchmark", "cache_gb", "gradient_compression", "log_every", "evaluate_every_steps",
    "checkpoint_seconds", "max_actors", "device", "decoder", "epochs_per_pass", "continue_epoch",
}  # fmt: skip
_LEFT_OUT = {
    "name", "output", "tracking", "ray", "evaluate.pairs", "evaluate.batch_size", "data.window_row_groups",
    "data.heldout",  # one of the run's datasets
}  # fmt: skip
_TRAINED = ("seed", "data.dataset", "model.name", "train.epochs", "train.batch_size", "train.learning_rate")
_PARAMETERS: dict[str, tuple[str, ...]] = {  # of jobs that read the settings of other jobs too
    "tune": (*_TRAINED, "tune"),
    "pipeline": (
        "seed",
        "generate.generator",
        "generate.identities",
        *_TRAINED[2:],
        "evaluate.sets",
        "evaluate.models",
    ),
}


def parameters(settings: Settings, job: str) -> dict[str, str]:
    """The settings that decide what a job makes, by dotted name: 20 to 40 for a training.

    A trial of a sweep is described as the training that it is.
    """
    method = f"train_{settings.tune.method}"
    names = _PARAMETERS.get(job) or JOB_SETTINGS.get(method if job == "trial" else job, ())
    tree = settings.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for name in names:
        section, _, key = name.partition(".")
        if name in _LEFT_OUT:
            continue
        if key or not isinstance(tree[section], dict):
            flat[name] = tree[section][key] if key else tree[section]
        else:
            flat |= {f"{section}.{key}": value for key, value in tree[section].items()}
    # Schedules whose settings do nothing, and how a training is watched.
    others = [f"train.{schedule}_" for schedule in {"step", "plateau"} - {settings.train.schedule}]
    others += ["evaluate.", "train.flip"] if job in ("trial", "train_ssl", "train_unpg") else []
    return {
        name: str(value)
        for name, value in flat.items()
        if name.rpartition(".")[2] not in _OPERATIONAL
        and name not in _LEFT_OUT
        and not name.startswith(tuple(others))
        and value not in ("", [], {})
    }


def source_tags(job: str) -> dict[str, str]:
    """Tags from which MLflow's pages show who started a run, and from which code."""
    tags = {"mlflow.source.name": f"ray_jobs/{'tune' if job == 'trial' else job}.py", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError, ImportError):  # A container's user may have no name.
        tags["mlflow.user"] = getpass.getuser()
    commit = _commit()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def run_note(settings: Settings, job: str, about: str = "") -> str:
    """Markdown for the run's page: what the job does, where its results are, what differs from the defaults."""
    changed = settings_to_yaml(settings, "settings that differ from the defaults").strip()
    first = about.strip().partition("\n\n")[0] or job
    return f"{first}\n\nResults: `{settings.path('').rstrip('/')}`\n\n```yaml\n{changed[:4000]}\n```"


def _commit() -> str:
    """The commit of the checkout that this code is in; empty for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        return found.stdout.strip()
    return ""
