"""The command line of a job: `--config FILE --section.field value`, help, and the flags of logging."""

import sys
from collections.abc import Sequence

from facelib.config.fields import SettingsError
from facelib.config.help_text import job_help
from facelib.config.printing import settings_to_yaml
from facelib.config.reading import load_settings
from facelib.config.tree import Settings

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


def parse_command_line(job: str, description: str, argv: Sequence[str] | None = None) -> Settings:
    """Settings of a job from its command line: `--config FILE [--section.field value ...]`.

    Exits with status 0 after `--help`, `--help-all` and `--print-config`; with status 2 and a message on standard error
    if the settings cannot be used.

    Args:
        job: name of the job.
        description: what the job does, for its help.
        argv: words of the command line; None: those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    everything = "--help-all" in arguments
    if everything or "-h" in arguments or "--help" in arguments:
        print(job_help(job, description, everything))
        raise SystemExit(0)
    try:
        config, rest = _take_flag(arguments, "--config", once=True)
        detail, rest = _take_print_config(rest)
        settings = load_settings(config, rest)
    except SettingsError as error:
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if detail is not None:
        which = "all settings" if detail == "all" else "settings that differ from the defaults"
        comment = f"facelib {job}{f' --config {config}' if config else ''}: {which}"
        print(settings_to_yaml(settings, comment, detail == "all"), end="")
        raise SystemExit(0)
    return settings


def split_logging_flags(argv: Sequence[str] | None = None) -> tuple[list[str], str, str]:
    """Take `--log-level` and `--log-format` out of a command line.

    Args:
        argv: words of the command line; None: those of this process.

    Returns:
        The other words; the level: debug, info (default), warning or error; the format: text (default) or json.

    Raises:
        SettingsError: an unknown level or format.
    """
    rest = list(sys.argv[1:] if argv is None else argv)
    level, rest = _take_flag(rest, "--log-level")
    form, rest = _take_flag(rest, "--log-format")
    for flag, value, known in (("--log-level", level, LOG_LEVELS), ("--log-format", form, LOG_FORMATS)):
        if value is not None and value.lower() not in known:
            raise SettingsError(f"{flag}: {value!r} is not one of {', '.join(known)}")
    return rest, (level or "info").lower(), (form or "text").lower()


def _take_flag(arguments: list[str], flag: str, once: bool = False) -> tuple[str | None, list[str]]:
    """The last value of `flag` (None if not given), and the words without it; `once` refuses a second one."""
    value: str | None = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        earlier = value
        if word == flag:
            value = next(words, "")
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
            continue
        if not value or value.startswith("--"):
            raise SettingsError(f"{flag}: expected one argument")
        if once and earlier:
            raise SettingsError(f"{flag}: given twice, {earlier} and {value}; a file builds on another with `extends:`")
    return value, rest


def _take_print_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What `--print-config` asks for ("changed" or "all"; None if not given), and the other words."""
    details = {"--print-config": "changed", "--print-config=changed": "changed", "--print-config=all": "all"}
    chosen = [details[word] for word in arguments if word in details]
    return (chosen[-1] if chosen else None), [word for word in arguments if word not in details]
