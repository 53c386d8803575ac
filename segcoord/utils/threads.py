"""Threads for reading and writing, and Ctrl-C as a request to stop."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int
) -> Iterator[R]:
    """Like `map`, in threads: yields the results in the order of the items.

    Holds at most `ahead` + 1 items and results at a time, so that memory does not grow with their
    number. When closed or left by an exception, it finishes the running calls and drops the rest.

    Args:
        function: its exceptions are raised here, in the place of the item's result.
        items: iterated in the calling thread.
        threads: number of threads.
        ahead: number of calls that may start before the first result is consumed.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def graceful_interrupt(on_request: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop; a second one raises KeyboardInterrupt.

    Yields a function that returns whether a stop was requested.

    Args:
        on_request: called at the first Ctrl-C.
    """
    requested = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        on_request()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
