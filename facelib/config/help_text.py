"""The text of `--help`: the settings that a job reads, grouped by section and wrapped to the terminal."""

import json
import shutil
import textwrap
from typing import Annotated, Any, Literal, get_args, get_origin

from facelib.config.flags import section_type
from facelib.config.tree import Settings

_TOP_LEVEL = ("name", "seed", "output")
_FACES = ("generate", "align")
_TRAINING = ("train", "data", "model", "augment", "evaluate.pairs", "evaluate.batch_size",
             "evaluate.published", "evaluate.accuracy_rule", "evaluate.far_rule")  # fmt: skip
_EVERY_JOB = ("tracking", "ray")

# What each job reads, in the order in which --help lists it: sections, or single settings of one.
JOB_SETTINGS: dict[str, tuple[str, ...]] = {
    "generate": (*_TOP_LEVEL, *_FACES, "data.dataset", "data.heldout", "data.stream", *_EVERY_JOB),
    "import_data": (*_TOP_LEVEL, "import_data", "align", "data.dataset", "model.normalization", *_EVERY_JOB),
    "export_images": (*_TOP_LEVEL, "export_images", *_EVERY_JOB),
    "inspect_dataset": (*_TOP_LEVEL, "inspect", "model.normalization", *_EVERY_JOB),
    "train_ssl": (*_TOP_LEVEL, "ssl", *_TRAINING, *_EVERY_JOB),
    "train_unpg": (*_TOP_LEVEL, "unpg", *_TRAINING, *_EVERY_JOB),
    "tune": (*_TOP_LEVEL, "tune", "ssl", "unpg", *_TRAINING, *_EVERY_JOB),
    "whiten": (*_TOP_LEVEL, "whiten", "model.normalization", *_EVERY_JOB),
    "evaluate": (*_TOP_LEVEL, "evaluate", "data.dataset", "data.heldout", "model.normalization", *_EVERY_JOB),
    "embed": (*_TOP_LEVEL, "embed", "align", "model.normalization", *_EVERY_JOB),
    "export": (*_TOP_LEVEL, "export", "align", "model.normalization", *_EVERY_JOB),
    "pipeline": (*_TOP_LEVEL, "stages", *_EVERY_JOB),
}
# What else a job reads, for the end of its --help.
NOTES = {
    "train_ssl": "With data.stream=true, generate.* and align.* describe the faces.",
    "train_unpg": "With data.stream=true, generate.* and align.* describe the faces.",
    "pipeline": "Each stage reads the settings of its job: facelib <job> --help.",
}

_OPTIONS = (
    ("--config FILE", "YAML file with settings, or the name of a shipped config such as quickstart"),
    ("--print-config[=all]", "print the settings that differ from the defaults (or all) as YAML, and exit"),
    ("--log-level LEVEL", "least severe log messages shown: debug, info, warning, error"),
    ("--log-format FORMAT", "log messages as text, or json (one object per line)"),
    ("--help", "show the settings of this job, and exit"),
    ("--help-all", "show the settings of all jobs, and exit"),
)
_COLUMN = 34  # where descriptions start


def job_help(job: str, description: str, everything: bool = False, width: int | None = None) -> str:
    """The text of `--help`, or of `--help-all` with `everything`.

    Args:
        job: name of the job; one that is not in `JOB_SETTINGS` reads all settings.
        description: what the job does.
        width: columns of the terminal; None: the actual width.
    """
    width = width or _terminal_width()
    note = "" if everything or job not in JOB_SETTINGS else f"{NOTES.get(job, '')} All settings: --help-all".strip()
    parts = [
        textwrap.fill(f"usage: facelib {job} [--config FILE] [--section.field VALUE ...]", width),
        "\n\n".join(textwrap.fill(paragraph, width) for paragraph in description.strip().split("\n\n")),
        "\n".join(["options:", *(_entry(flag, text, width) for flag, text in _OPTIONS)]),
        describe_settings(None if everything else job, width),
        textwrap.fill(note, width),
    ]
    return "\n\n".join(part for part in parts if part)


def describe_settings(job: str | None = None, width: int | None = None) -> str:
    """Flag, type, meaning and default of the settings that a job reads; None: of all settings."""
    width = width or _terminal_width()
    chosen = JOB_SETTINGS.get(job or "", tuple(Settings.model_fields))
    groups: dict[str, list[str]] = {}
    titles: dict[str, str] = {"": "settings of the run:"}
    for name in chosen:
        section_name, _, key = name.partition(".")
        field = Settings.model_fields[section_name]
        section = section_type(field.annotation)
        if section is None:
            groups.setdefault("", []).append(_describe(name, field, width))
            continue
        titles[section_name] = textwrap.fill(f"{section_name}: {(section.__doc__ or '').strip()}", width)
        members = [key] if key else list(section.model_fields)
        lines = [_describe(f"{section_name}.{member}", section.model_fields[member], width) for member in members]
        groups.setdefault(section_name, []).extend(lines)
    return "\n\n".join("\n".join([titles[name], *lines]) for name, lines in groups.items())


def _terminal_width() -> int:
    return max(60, min(shutil.get_terminal_size().columns, 120))


def _describe(flag: str, field: Any, width: int) -> str:
    default = json.dumps(field.get_default(call_default_factory=True), default=str)
    return _entry(f"--{flag} {_kind(field.annotation)}", f"{field.description} [{default}]", width)


def _entry(flag: str, text: str, width: int) -> str:
    lines = textwrap.wrap(text, width - _COLUMN, break_long_words=False, break_on_hyphens=False)
    head = f"  {flag}"
    if len(head) < _COLUMN - 1:
        head, lines = f"{head:<{_COLUMN}}{lines[0]}", lines[1:]
    return "\n".join([*_wrap_flag(head, width), *(" " * _COLUMN + line for line in lines)])


def _wrap_flag(head: str, width: int) -> list[str]:
    return textwrap.wrap(head, width, subsequent_indent=" " * 6, break_on_hyphens=False, drop_whitespace=False)


def _kind(annotation: Any) -> str:
    """The values that a flag accepts: its choices, or the name of a type."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(annotation)) + "}"
    if get_origin(annotation) is dict:
        return "JSON"
    if get_origin(annotation) is list:
        return "LIST"
    members = [a for a in get_args(annotation) if a is not type(None)] or [annotation]
    if len(members) > 1:
        return "|".join(map(_kind, members))
    if type(None) in get_args(annotation):
        return f"{_kind(members[0])}|null"
    return {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}[annotation]
