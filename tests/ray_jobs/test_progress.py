"""Progress of long work in a log, and durations."""

import pytest

from ray_jobs import progress
from ray_jobs.progress import LOG_WIDTH, ProgressReport, console, format_seconds


def test_a_log_shows_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    with ProgressReport("faces", total=10) as report:
        report.advance(4, "(1 rejected)")
        report.advance(6)
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("faces: 4/10 images, ")
    assert first.endswith("left (1 rejected)")
    assert last.startswith("faces: 10 images in 0 s (")


def test_no_total_after_an_error(capsys):
    with pytest.raises(ValueError, match="broken"), ProgressReport("faces", total=10):
        raise ValueError("broken")
    assert capsys.readouterr().out == ""


def test_tables_in_a_log_are_wide():
    assert console().width == LOG_WIDTH


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (75.2, "1 min 15 s"), (3599.7, "1 h 0 min"), (7260, "2 h 1 min")]
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
