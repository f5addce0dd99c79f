"""Which process this is, in words another process can check later: is that one still running? And its memory."""

import atexit
import contextlib
import ctypes
import gc
import os
import socket
from collections.abc import Mapping, Sequence

import psutil

HOST, PID, STARTED = "host", "pid", "process_started"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h


def this_process() -> dict[str, str]:
    """Host name, process id, and start time in seconds, because process ids are used again."""
    return {HOST: socket.gethostname(), PID: str(os.getpid()), STARTED: f"{psutil.Process().create_time():.0f}"}


def on_this_host(identity: Mapping[str, str]) -> bool:
    """Whether that process ran, or runs, on this machine (or in this container)."""
    return identity.get(HOST) == socket.gethostname()


def is_running(identity: Mapping[str, str]) -> bool:
    """Whether a process of this host still runs; a zombie, killed and not yet collected, does not."""
    try:
        process = psutil.Process(int(identity[PID]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(identity[STARTED])) < 2
    except (psutil.Error, KeyError, ValueError):
        return False


def children() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


def end_processes(processes: Sequence[psutil.Process], seconds: float = 3) -> None:
    """Terminate processes, kill those that still run after `seconds`, and collect them."""
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                act(process)
        _, processes = psutil.wait_procs(processes, seconds)


def look_for_garbage_less() -> None:
    """Let this process look for reference cycles after every 100,000 objects that stay, and not when it ends.

    Importing PyTorch and Ray makes 300,000 objects that stay. Python looks among them after every 700, and once more
    at the end: a third of what a short process takes.
    """
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)


def return_memory() -> None:
    """Give freed memory back to the system; does nothing where the C library has no `malloc_trim`.

    glibc keeps an arena for every thread and what was freed in it. A process that trains one network after the other,
    each in a thread of its own, grew by a quarter of a gigabyte with each without this.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Let this process use again what it freed, in place of asking the system for every large block; for CPU tensors.

    glibc maps blocks above a threshold one by one and unmaps them when they are freed, and gives back the end of an
    arena as soon as it is free. A network of 12 MB activations so touches tens of thousands of new pages a step, an
    eighth of its time. Blocks up to 32 MiB, the largest that glibc allows, now stay in one arena until `return_memory`.
    Does nothing where the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(parameter, value)
