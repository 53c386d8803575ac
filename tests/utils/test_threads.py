"""Results of threads, in order."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcoord.utils.threads import map_in_threads


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), threads=st.integers(1, 4), ahead=st.integers(0, 5))
def test_threads_keep_the_order_and_hold_few_results(count: int, threads: int, ahead: int) -> None:
    lock, held, most = Lock(), 0, 0

    def items() -> Iterator[int]:
        nonlocal held, most
        for i in range(count):
            with lock:
                held, most = held + 1, max(most, held + 1)
            yield i

    results = []
    for i in map_in_threads(lambda i: i, items(), threads, ahead):
        with lock:
            held -= 1
        results.append(i)
    assert results == list(range(count))
    assert most <= ahead + 1


def test_an_error_in_a_thread_is_raised_in_order() -> None:
    results = []
    with pytest.raises(ZeroDivisionError):
        for value in map_in_threads(lambda i: 6 // (3 - i), range(9), 2, 2):
            results.append(value)
    assert results == [2, 3, 6]
