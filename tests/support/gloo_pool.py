"""A pool of two gloo processes for distributed tests: for all files until a Ray cluster starts, then for each file."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import CEILING_S

WORKER = Path(__file__).with_name("gloo_worker.py")


class GlooPool:
    """Ranks that run module-level functions of the test files."""

    def __init__(self, ranks: int, store: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(rank), str(ranks), str(store)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for rank in range(ranks)
        ]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """function(*arguments) on every rank at once; results in rank order. What fails on a rank fails the test."""
        for process in self.processes:
            pickle.dump((function.__code__.co_filename, function.__name__, arguments), process.stdin)
            process.stdin.flush()
        answers = [pickle.load(process.stdout) for process in self.processes]
        failures = [answer for succeeded, answer in answers if not succeeded]
        assert not failures, "\n".join(failures)
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait(timeout=CEILING_S)


class LastingPool:
    """The pool that files share, while there is one."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._pool: GlooPool | None = None

    def get(self) -> GlooPool:
        """The pool, started if there is none."""
        if self._pool is None:
            self._pool = GlooPool(2, self._folders.mktemp("gloo") / "store")
        return self._pool

    def end(self) -> None:
        """End the pool: its ranks take a gigabyte, which a cluster needs."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


@pytest.fixture(scope="session")
def lasting_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingPool]:
    """For the fixtures here and in support/ray_cluster.py."""
    lasting = LastingPool(tmp_path_factory)
    yield lasting
    lasting.end()


@pytest.fixture(scope="module")
def gloo_pool(lasting_pool: LastingPool) -> Iterator[GlooPool]:
    """Two ranks: `gloo_pool.run(function, *arguments)` with a module-level function of the test file."""
    yield lasting_pool.get()
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        lasting_pool.end()
