"""Reading and writing beside the main thread, which predicts."""

from __future__ import annotations

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
    """`function` of each item, in the order of the items, computed in threads.

    Of `items`, and of the results, at most `ahead` + 1 are held at a time, so that memory does not
    grow with their number. Where this is closed or left by an error, what has begun is finished.

    Args:
        function: what it raises is raised here, in the item's place.
        items: iterated in the calling thread.
        threads: how many items are worked on at a time.
        ahead: how many results may be begun before the first of them is taken.
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
def graceful_interrupt(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks for a stop, which what is yielded tells; a second one interrupts at once.

    Args:
        tell: called when it is asked for.
    """
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
