"""Log records on the console, as text and as JSON lines."""

import json
import logging

from ray_jobs.logs import JsonFormatter, TextFormatter


def record(level, message="cannot read %s", arguments=("a.jpg",)):
    return logging.LogRecord("facelib.data", level, "x.py", 1, message, arguments, None)


def test_text_names_the_level_of_all_but_information():
    assert TextFormatter().format(record(logging.INFO)) == "cannot read a.jpg"
    assert TextFormatter().format(record(logging.WARNING)) == "warning: cannot read a.jpg"


def test_json_is_one_object_with_the_traceback():
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        failed = record(logging.ERROR)
        failed.exc_info = (type(error), error, error.__traceback__)
    entry = json.loads(JsonFormatter().format(failed))
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "facelib.data", "cannot read a.jpg")
    assert "ZeroDivisionError" in entry["traceback"]
