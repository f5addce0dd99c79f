"""Work in a thread that nothing waits for longer than it wants to."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> "Future[T]":
    """Start `call` in a thread of its own; the future has its result or its exception.

    A call that never returns (a name server, a socket) does not keep the process from ending, as one in an executor
    would.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="facelib background").start()
    return future
