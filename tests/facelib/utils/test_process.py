import ctypes
import subprocess
import sys

import pytest
from support.commands import CEILING_S

from facelib.utils.process import children, end_processes

CODE = """
import threading, psutil
from facelib.utils.process import return_memory

kept = []

def work():
    blocks = [bytearray(60_000) for _ in range(5_000)]
    kept.append(blocks[-1])  # The newest block keeps the arena from shrinking by itself.

thread = threading.Thread(target=work)
thread.start()
thread.join()
before = psutil.Process().memory_info().rss
return_memory()
print((before - psutil.Process().memory_info().rss) // 10**6)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_a_thread_has_freed_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200  # of 300 MB


GARBAGE = """
import gc, sys
from facelib.utils.process import look_for_garbage_less

class Cycle:
    def __init__(self):
        self.self = self
    def __del__(self):
        print("found", flush=True)

if sys.argv[1] == "less":
    look_for_garbage_less()
before = sum(generation["collections"] for generation in gc.get_stats())
kept = [[] for _ in range(300_000)]
print(sum(generation["collections"] for generation in gc.get_stats()) - before)
Cycle()
"""


@pytest.mark.parametrize(("how", "often", "at_the_end"), [("less", range(5), []), ("", range(300, 1000), ["found"])])
def test_a_process_looks_for_garbage_less_and_not_at_its_end(how, often, at_the_end):
    done = subprocess.run([sys.executable, "-c", GARBAGE, how], capture_output=True, text=True, timeout=CEILING_S)
    assert done.returncode == 0, done.stderr
    count, *more = done.stdout.splitlines()
    assert int(count) in often
    assert more == at_the_end


PAGES = """
import resource, sys, threading
import numpy as np
from facelib.utils.process import keep_freed_memory, return_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        blocks = [np.ones(12_000_000, np.uint8) for _ in range(4)]  # as the activations of every step
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    if sys.argv[1] == "keep":
        keep_freed_memory()
    faults(2)
    print(faults(20))

thread = threading.Thread(target=work)  # as Ray Train does
thread.start()
thread.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_blocks_that_were_freed_are_used_again_without_new_pages():
    faults = {}
    for kind in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", PAGES, kind], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        faults[kind] = int(done.stdout)
    assert faults["keep"] < faults["as it is"] / 10


def test_processes_are_ended_also_those_that_ignore_it():
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in (deaf, "input()", deaf)
    ]
    started[0].stdout.readline(), started[2].stdout.readline()
    found = [process for process in children() if process.pid in [p.pid for p in started]]
    assert len(found) == 3
    end_processes(found, seconds=0.5)
    assert not any(process.is_running() for process in found)
