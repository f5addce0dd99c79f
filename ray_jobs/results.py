"""What a job returns to a Python caller: where it wrote, its metrics, and its curves as a table."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class JobResult:
    """Outcome of a finished job.

    Attributes:
        written: paths or URIs of what the job wrote.
        metrics: final numbers by name, as in the MLflow run.
        history: rows of a curve (one per epoch, trial or set); empty where the job has none.
    """

    written: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_dataframe(self) -> "pandas.DataFrame":
        """`history` as a pandas DataFrame, one row per entry."""
        import pandas

        return pandas.DataFrame(self.history)

    def __str__(self) -> str:
        return ", ".join(self.written)
