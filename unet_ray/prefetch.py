"""A map over a thread pool that starts work before its result is needed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    begun_before: int,
    late: tuple[float, Callable[[Item], Result]] | None = None,
    size: Callable[[Item], int] = lambda _: 0,
    most_size: int = 0,
) -> Iterator[Result]:
    """Map `function` over `items` in order, with at most `begun_before` results in flight.

    Args:
        pool: Threads that call the function.
        function: Function of one item.
        items: Items, taken as they are needed.
        begun_before: Number of calls that begin before their result is needed.
        late: Longest time that a call may take (s), and the function that returns the result of a
            call that takes longer. Its thread is abandoned: the pool must be a `reading_pool`.
        size: Size of an item, such as the bytes that its result will take.
        most_size: Largest sum of the sizes in flight; a larger item is in flight alone.

    Yields:
        Results in the order of the items.
    """
    begun: deque[tuple[Future[Result], float, Item]] = deque()
    in_flight = 0

    def end_first() -> Result:
        """Return the result of the oldest call."""
        nonlocal in_flight
        future, begun_at, item = begun.popleft()
        in_flight -= size(item)
        if late is None:
            return future.result()
        try:
            return future.result(max(0.0, begun_at + late[0] - time.monotonic()))
        except TimeoutError:
            if future.done():  # the function itself raised it
                raise
            return late[1](item)

    try:
        for item in items:
            while begun and in_flight + size(item) > most_size:
                yield end_first()
            in_flight += size(item)
            begun.append((pool.submit(partial(function, item)), time.monotonic(), item))
            if len(begun) > begun_before:
                yield end_first()
        while begun:
            yield end_first()
    finally:
        for future, *_ in begun:
            future.cancel()


@contextmanager
def reading_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open a thread pool whose end does not wait for a thread that hangs."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
