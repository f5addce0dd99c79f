"""Which errors are shown to the user, and which are bugs with a traceback."""

import errno
import logging

import pytest
import ray

from facelib.data import DatasetError
from facelib.tracking import TrackingError
from ray_jobs.errors import JobError, one_line_errors, user_error


def test_errors_that_the_user_can_act_on():
    class LibraryError(ValueError):
        """As json.JSONDecodeError or UnicodeDecodeError: about a byte, not about the input."""

    users = [JobError(), TrackingError(), FileNotFoundError(), PermissionError(), ValueError(), DatasetError()]
    assert [user_error(e) for e in users] == users
    users.append(OSError(errno.ENOSPC, "disk full"))
    for bug in (LibraryError(), KeyError(), RuntimeError(), ZeroDivisionError(), OSError(errno.EIO, "broken")):
        assert user_error(bug) is None
        for cause in users:
            bug.__cause__ = cause
            assert user_error(bug) is cause


def test_an_error_inside_a_ray_task_is_found(ray_cluster):
    def work(kind, *arguments):
        raise kind(*(arguments or ("from a worker",)))

    for kind in (DatasetError, JobError, FileNotFoundError):
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(ray.remote(work).options(max_retries=0).remote(kind))
        found = user_error(caught.value)
        assert type(found) is kind
        assert str(found) == "from a worker"
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(ray.remote(work).options(max_retries=0).remote(PermissionError, 13, "Permission denied", "x.png"))
    assert str(user_error(caught.value)) == "[Errno 13] Permission denied: 'x.png'"
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(ray.remote(work).options(max_retries=0).remote(KeyError))
    assert user_error(caught.value) is None


def test_no_progress_of_ray_data_is_explained():
    class ExecutionTimeoutError(Exception):
        """As Ray Data's."""

    shown = user_error(ExecutionTimeoutError("No progress for 600 s.\n  - Map: waiting for actors\nmore"))
    assert isinstance(shown, JobError)
    assert "No progress for 600 s. Map: waiting for actors. Does the cluster have resources" in str(shown)


@pytest.mark.parametrize(("error", "asked", "shown"), [(JobError("no"), "", False), (JobError("no"), "1", True),
                                                       (KeyError("bug"), "", True)])  # fmt: skip
def test_ray_train_prints_tracebacks_of_bugs_and_for_who_asks(monkeypatch, error, asked, shown):
    monkeypatch.setenv("FACELIB_TRACEBACK", asked)
    logger = logging.getLogger("ray.train")
    before = logger.level
    logger.setLevel(logging.NOTSET)  # another job of this process may have silenced it
    try:
        with pytest.raises(type(error)), one_line_errors():
            raise error
        assert logging.getLogger("ray.train.v2").isEnabledFor(logging.ERROR) == shown
    finally:
        logger.setLevel(before)
