"""A map over a thread pool that starts work before its result is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    begun_before: int,
) -> Iterator[Result]:
    """Map `function` over `items` in order, with at most `begun_before` results in flight.

    Args:
        pool: Threads that call the function.
        function: Function of one item.
        items: Items, taken as they are needed.
        begun_before: Number of calls that are begun before their result is asked for.

    Yields:
        Results in the order of the items.
    """
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(partial(function, item)))
            if len(begun) > begun_before:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
