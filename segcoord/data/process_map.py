"""Map a function over items in several processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Yield `function(item)` in order, computed in this process if `workers` is below 2.

    A script that uses more must call this under `if __name__ == "__main__"`.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    if workers < 2:
        yield from map(function, items)
        return
    # "spawn" is the one start method that is safe beside threads and the same on all systems.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_initialize_worker)
    try:
        yield from pool.map(function, items, chunksize=4)
    except BrokenProcessPool:
        # A worker that starts while the pool breaks is never stopped by it, and shutdown would wait
        # for that worker without end.
        for process in pool._processes.values():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize_worker() -> None:
    """One OpenCV thread; leave Ctrl-C to the parent; exit when the parent is killed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def exit_with(parent) -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=exit_with, args=(parent,), daemon=True).start()
