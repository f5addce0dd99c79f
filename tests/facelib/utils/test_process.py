import ctypes
import subprocess
import sys

import pytest

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
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200  # of 300 MB
