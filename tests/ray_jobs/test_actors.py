"""Rows through stages of actors, and the pool that serves calls."""

import gc
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
import ray
from support.commands import wait_for, workers_of

from facelib.config import load_settings
from facelib.data import DatasetError
from ray_jobs.actors import ActorPool, ActorStage, GroupStage, _blocks, device_options, stream_rows
from ray_jobs.errors import JobError, user_error
from ray_jobs.resources import ActorRequest

CFG = load_settings(None, ["generate.cpus_per_actor=0.25", "generate.actors=2"]).generate
ONE_ACTOR = CFG.model_copy(update={"actors": 1})


class Add:
    """Stage: adds a number."""

    def __init__(self, number):
        self.number = number

    def __call__(self, row):
        return {"x": row["x"] + self.number}


class Square:
    """Pool actor; its first call ends the process if `marker` names a file that does not exist yet."""

    def __init__(self, marker=""):
        self.marker = marker

    def square(self, x):
        if self.marker and not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(1)
        if x < 0:
            raise ValueError(f"{x} is negative")
        return x * x

    def wait(self, seconds):
        time.sleep(seconds)


@pytest.fixture(scope="module", autouse=True)
def cluster(ray_cluster):
    # Workers cannot import a test file: its classes are pickled by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    gc.collect()  # Tests look for garbage rarely, and actors of streams that failed hold their CPUs until then.


def test_rows_pass_all_stages():
    stages = [ActorStage(Add, (1,), "generate", CFG), ActorStage(Add, (10,), "align", ONE_ACTOR)]
    rows = stream_rows([{"x": x} for x in range(5)], stages, load_settings())
    assert sorted(row["x"] for row in rows) == [11, 12, 13, 14, 15]
    assert list(stream_rows([], stages, load_settings())) == []


def sums(rows):
    """Group stage: what the rows of a group are."""
    return {"first": rows[0]["x"], "all": ",".join(str(row["x"]) for row in rows), "pid": os.getpid()}


class Slower(Add):
    """Stage whose first rows take longest: results come in another order than rows."""

    def __call__(self, row):
        time.sleep(max(0.0, 0.6 - 0.2 * row["x"]))
        return super().__call__(row)


def test_groups_are_of_consecutive_rows_and_made_elsewhere():
    stages = [ActorStage(Slower, (100,), "generate", CFG), ActorStage(Add, (0,), "align", ONE_ACTOR)]
    rows = [{"x": x} for x in range(12)]
    with warnings.catch_warnings(action="error"):  # Ray Data's, of more tasks than groups
        groups = list(stream_rows(rows, stages, load_settings(), GroupStage(sums, 3)))
    assert [g["all"] for g in groups] == ["100,101,102", "103,104,105", "106,107,108", "109,110,111"]
    assert os.getpid() not in {g["pid"] for g in groups}


def full_disk(rows):
    raise DatasetError("faces/part-0000001.parquet: cannot be written (No space left on device)")


def test_the_error_of_a_task_that_writes_is_the_line_a_user_is_shown():
    with pytest.raises(DatasetError) as raised:
        list(
            stream_rows([{"x": 1}], [ActorStage(Add, (1,), "generate", CFG)], load_settings(), GroupStage(full_disk, 1))
        )
    shown = user_error(raised.value)
    assert type(shown) is DatasetError
    assert str(shown) == "faces/part-0000001.parquet: cannot be written (No space left on device)"


class Vanished(Add):
    """Stage whose file is gone."""

    def __call__(self, row):
        return {"x": len(Path("/nowhere/x.png").read_bytes())}


def unwritable(rows):
    raise PermissionError(13, "Permission denied", "faces/part-0000001.parquet")


@pytest.mark.parametrize(
    ("stage", "groups", "line"),
    [
        (Vanished, None, "[Errno 2] No such file or directory: '/nowhere/x.png'"),
        (Add, GroupStage(unwritable, 1), "[Errno 13] Permission denied: 'faces/part-0000001.parquet'"),
    ],
)
def test_the_error_of_a_file_names_it(stage, groups, line):
    with pytest.raises(JobError) as raised:
        list(stream_rows([{"x": 1}], [ActorStage(stage, (1,), "generate", CFG)], load_settings(), groups))
    assert str(user_error(raised.value)) == line


class Interrupted(Add):
    """Stage that interrupts the driver at its first row; others take long."""

    def __call__(self, row):
        if row["x"] == 0:
            os.kill(self.number, signal.SIGINT)
        time.sleep(1)
        return row


@pytest.mark.parametrize(("stage", "raised"), [(Vanished, JobError), (Interrupted, KeyboardInterrupt)])
def test_actors_of_a_stream_that_failed_end_while_its_error_is_kept(stage, raised, request):
    """As a notebook keeps it, whose next cell needs the CPUs."""
    logging.disable()  # pytest keeps log records, and they the error of Ray Data.
    request.addfinalizer(lambda: logging.disable(logging.NOTSET))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Background jobs of a shell ignore it.
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    rows, stages = [{"x": x} for x in range(9)], [ActorStage(stage, (os.getpid(),), "generate", CFG)]
    with pytest.raises(raised) as kept:
        list(stream_rows(rows, stages, load_settings()))
    name = f"MapWorker(Map({stage.__name__}))"

    def ended():
        gc.collect()
        return not workers_of(psutil.Process(), name)

    wait_for(ended, what="the end of the stream's actors")
    assert kept.value.__traceback__


@pytest.mark.parametrize(("rows", "size", "blocks"), [(12, 3, 12), (40_000, 8, 10_000), (30_000, 8, 7_500), (8, 8, 8)])
def test_no_block_has_rows_of_two_groups(rows, size, blocks):
    assert _blocks(rows, GroupStage(sums, size)) == blocks
    assert size % (rows // blocks) == 0


def test_earlier_stages_must_fit_completely_and_the_last_with_one_actor():
    many = CFG.model_copy(update={"actors": 100, "cpus_per_actor": 1000.0})
    rows = [{"x": x} for x in range(3)]
    stages = [ActorStage(Add, (1,), "generate", many), ActorStage(Add, (1,), "align", many)]
    with pytest.raises(JobError, match=r"3 of generate\.actors .* and 1 of align\.actors"):
        next(stream_rows(rows, stages, load_settings()))


def test_a_pool_serves_calls_and_consumes_them_lazily():
    taken = []

    def calls():
        for x in range(20):
            taken.append(x)
            yield (x,)

    with ActorPool(Square, (), ActorRequest("generate", CFG, 2), concurrency=2) as pool:
        results = pool.map("square", calls())
        first = next(results)
        assert len(taken) <= 2 * 2 + 1
        assert dict([first, *results]) == {x: x * x for x in range(20)}


def test_a_pool_restarts_an_actor_that_dies(tmp_path):
    with ActorPool(Square, (str(tmp_path / "died"),), ActorRequest("generate", CFG, 1)) as pool:
        assert dict(pool.map("square", ((x,) for x in range(4)))) == {0: 0, 1: 1, 2: 4, 3: 9}
    assert (tmp_path / "died").exists()


def test_errors_of_calls_are_raised():
    with (
        ActorPool(Square, (), ActorRequest("generate", CFG, 1)) as pool,
        pytest.raises(ValueError, match="-1 is negative"),
    ):
        list(pool.map("square", [(1,), (-1,)]))


def test_a_pool_that_does_not_fit_is_refused():
    huge = CFG.model_copy(update={"cpus_per_actor": 1000.0})
    with pytest.raises(JobError, match=r"generate\.cpus_per_actor=1000"):
        ActorPool(Square, (), ActorRequest("generate", huge, 1))


def test_actors_with_a_gpu_use_it():
    assert device_options({"depth": 2}, 0.25) == {"device": "cuda", "depth": 2}
    assert device_options({"device": "cpu"}, 0.5) == {"device": "cpu"}
    assert device_options({}, 0) == {}
