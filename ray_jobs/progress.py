"""Progress and tables of jobs on the console.

On a terminal, progress is a bar; in a log, a line every ten seconds. Both show rate and time left.
"""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_INTERVAL_SECONDS = 10.0
LOG_WIDTH = 160  # Columns. Logs have no width of their own, and rich's default of 80 wraps the rows of most tables.


def console() -> Console:
    """Console of every job: as wide as the terminal, or `LOG_WIDTH` in a log."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=LOG_WIDTH)


class ProgressReport:
    """Counts units of work toward `total`, as a context manager.

    Args:
        description: name of the work.
        total: units of work.
        unit: name of the units, plural.
    """

    def __init__(self, description: str, total: int, unit: str = "images") -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self.note = ""
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        output = console()
        if output.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=output)
            self._task = self._bar.add_task(description, total=total, rate="", note="")

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    def advance(self, units: int, note: str = "") -> None:
        """Add `units` to what is done; `note` is shown after the rate until another one replaces it."""
        self.done += units
        self.note = note or self.note
        rate = f"{self.rate:.0f} {self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, advance=units, rate=rate, note=self.note)
            return
        now = time.monotonic()
        if now - self._printed >= LOG_INTERVAL_SECONDS:
            self._printed = now
            left = format_seconds((self.total - self.done) / max(self.rate, 1e-9))
            line = f"{self.description}: {self.done}/{self.total} {self.unit}, {rate}, {left} left {self.note}"
            print(line.rstrip(), flush=True)

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            seconds = format_seconds(time.monotonic() - self._started)
            line = f"{self.description}: {self.done} {self.unit} in {seconds} ({self.rate:.0f}/s) {self.note}"
            print(line.rstrip(), flush=True)


def format_seconds(seconds: float) -> str:
    """`75.2` → `1 min 15 s`."""
    rounded = round(seconds)
    hours, minutes, rest = rounded // 3600, rounded // 60 % 60, rounded % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
