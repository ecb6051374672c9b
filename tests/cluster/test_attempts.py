"""Deaths of processes are counted; ends of tasks and deaths of nodes are not."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from unet_ray.cluster.attempts import Attempts, is_node_alive


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_deaths_of_a_tasks_process_are_counted() -> None:
    @ray.remote(num_cpus=0, max_retries=-1)
    def work(attempts: Attempts, key: str, deaths: int) -> int:
        counted = attempts.begin(key)
        if counted < deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        attempts.end(key)
        return counted

    with Attempts() as attempts:
        assert ray.get([work.remote(attempts, "a", 2), work.remote(attempts, "b", 0)]) == [2, 0]
        # the work of "a" ended: that its result was lost and is made again counts no death
        assert ray.get(work.remote(attempts, "a", 0)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_node_is_asked_whether_it_lives() -> None:
    assert is_node_alive(ray.get_runtime_context().get_node_id())
    assert not is_node_alive("ab" * 28)
