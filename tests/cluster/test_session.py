"""A command restores what it changes in the process of its host."""

import logging
import signal

import pytest
from ray.data import DataContext

from unet_ray.cluster.ray_data import calm_ray_data
from unet_ray.cluster.session import quiet_ray

LOGGERS = ("ray", "ray.data", "ray.train")


def host_state() -> list[object]:
    context = DataContext.get_current()
    levels = [logging.getLogger(name).level for name in LOGGERS]
    callbacks = list(context.custom_execution_callback_classes)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return [levels, context.enable_progress_bars, callbacks, handlers]


def test_a_command_puts_back_what_it_changes_even_where_it_fails() -> None:
    before = host_state()
    assert before[1]  # Ray's default, so that the change below is one

    @quiet_ray()
    def fail() -> None:
        calm_ray_data()
        signal.signal(signal.SIGINT, lambda *_: None)  # as Ray Train does
        levels, has_progress_bars, callbacks, _ = host_state()
        assert levels == [logging.ERROR] * len(LOGGERS)
        assert not has_progress_bars
        assert callbacks != before[2]
        raise ValueError("wrong")

    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            fail()
        assert host_state() == before
