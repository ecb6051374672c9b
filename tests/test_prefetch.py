"""A map over threads that begins before its results are asked for."""

from __future__ import annotations

import threading
import time

import pytest

from unet_ray.prefetch import ahead, reading_pool


def test_results_come_in_the_order_of_the_items() -> None:
    with reading_pool(4) as pool:
        assert list(ahead(pool, lambda n: n * n, range(20), 4)) == [n * n for n in range(20)]


def test_a_call_that_hangs_is_left_behind() -> None:
    """All threads hang: what was not begun is late as well, and nobody waits for each in turn."""
    ended = threading.Event()

    def read(number: int) -> str:
        if number < 4:
            ended.wait(30)
        return f"{number}"

    started = time.monotonic()
    with reading_pool(4) as pool:
        found = list(ahead(pool, read, range(8), 8, (0.5, lambda number: f"late {number}")))
    took_s = time.monotonic() - started
    ended.set()
    assert found == [f"late {number}" for number in range(8)]
    assert took_s < 5


def test_a_time_out_of_the_function_itself_is_its_error() -> None:
    def fail(_: int) -> None:
        raise TimeoutError("of the store")

    with reading_pool(1) as pool, pytest.raises(TimeoutError, match="of the store"):
        list(ahead(pool, fail, [1], 1, (30.0, lambda _: None)))


def test_items_in_flight_come_to_no_more_than_their_limit_or_are_alone() -> None:
    lock, sizes, seen = threading.Lock(), [3, 3, 3, 20, 1, 9, 1, 1], []
    under_way: list[int] = []

    def read(size: int) -> int:
        with lock:
            under_way.append(size)
            seen.append(tuple(under_way))
        time.sleep(0.02)
        with lock:
            under_way.remove(size)
        return size

    with reading_pool(8) as pool:
        found = list(ahead(pool, read, sizes, 8, size=lambda size: size, most_size=10))
    assert found == sizes
    assert all(sum(sizes) <= 10 or len(sizes) == 1 for sizes in seen)
    assert max(map(len, seen)) > 1
