"""Calls that a thread repeats while a `with` block runs."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from unet_ray.periodic import every

_SOON_S = 0.01
_NEVER_S = 3600.0


def test_calls_come_again_and_again_until_the_block_ends() -> None:
    called = threading.Semaphore(0)
    with every(_SOON_S, called.release, "test"):
        for _ in range(3):
            assert called.acquire(timeout=30)
    while called.acquire(blocking=False):
        pass
    time.sleep(3 * _SOON_S)
    assert not called.acquire(blocking=False)


def test_the_first_call_comes_after_an_interval_and_none_is_waited_for() -> None:
    """A wait for the interval would take an hour."""
    calls = list[int]()
    with every(_NEVER_S, lambda: calls.append(1), "test"):
        pass
    assert calls == []


def test_one_more_call_can_be_had_at_the_end() -> None:
    calls = list[str]()
    with every(
        _NEVER_S, lambda: calls.append(threading.current_thread().name), "test", at_end=True
    ):
        calls.append("block")
    assert calls == ["block", "test"]


def test_the_end_waits_for_a_call_that_is_under_way() -> None:
    begun, done = threading.Event(), list[int]()

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        done.append(1)

    with every(_SOON_S, work, "test"):
        assert begun.wait(30)
    assert done


def test_an_exception_is_logged_once_and_the_calls_go_on(caplog: pytest.LogCaptureFixture) -> None:
    called, failures = threading.Semaphore(0), iter(["first\nline", "first\nline", "second"])

    def fail_three_times() -> None:
        called.release()
        for message in failures:
            raise ValueError(message)

    with every(_SOON_S, fail_three_times, "what it does"):
        for _ in range(5):
            assert called.acquire(timeout=30)
    assert caplog.messages == [
        "what it does: ValueError: first line",
        "what it does: ValueError: second",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_an_exception_of_the_block_ends_the_calls_and_is_raised() -> None:
    def raise_error() -> None:
        with every(_NEVER_S, lambda: None, "name of the thread"):
            (mine,) = [t for t in threading.enumerate() if t.name == "name of the thread"]
            assert mine.daemon
            raise KeyError("from the block")

    with pytest.raises(KeyError, match="from the block"):
        raise_error()
    assert not [t for t in threading.enumerate() if t.name == "name of the thread"]
