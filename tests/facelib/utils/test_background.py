import subprocess
import sys
import threading

import pytest
from support.commands import CEILING_S

from facelib.utils.background import in_background


def test_results_and_errors_arrive():
    assert in_background(lambda: 3).result(60) == 3
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0).result(60)


def test_what_does_not_return_is_left_behind():
    forever = threading.Event()
    with pytest.raises(TimeoutError):
        in_background(forever.wait).result(0.01)
    forever.set()


def test_a_process_ends_while_a_call_still_runs():
    code = "from facelib.utils.background import in_background; import time; in_background(lambda: time.sleep(3600))"
    assert subprocess.run([sys.executable, "-c", code], timeout=CEILING_S).returncode == 0
