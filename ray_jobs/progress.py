"""Progress of long work: a bar on a terminal, a line every ten seconds in a log, both with rate and time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_INTERVAL_SECONDS = 10.0


class ProgressReport:
    """Counts units of work toward `total`.

    Args:
        what: name of the work.
        unit: what is counted, in the plural.
    """

    def __init__(self, what: str, total: int, unit: str = "images") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.note = ""
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        console = Console()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(what, total=total, rate="", note="")

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    def advance(self, units: int, note: str = "") -> None:
        """Count `units` more; `note` is shown behind the rate."""
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
            print(f"{self.what}: {self.done}/{self.total} {self.unit}, {rate}, {left} left {self.note}", flush=True)

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
            print(f"{self.what}: {self.done} {self.unit} in {seconds} ({self.rate:.0f}/s) {self.note}", flush=True)


def format_seconds(seconds: float) -> str:
    """`75.2` → `1 min 15 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
