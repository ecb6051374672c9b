"""The watchdog ends a hanging block in whichever thread it runs."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from unet_ray.cluster.ray_data import TASK_CPUS
from unet_ray.errors import UnetRayError
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.segmentation.watchdog import Watchdog
from unet_ray.synthetic import encode

HANG_S = 30.0
"""Longer than any limit below, by far, and short enough for a test that fails."""


def run_here(call: Callable[[], None]) -> None:
    call()


def run_in_thread(call: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


@pytest.mark.parametrize("run", [run_here, run_in_thread])
def test_a_block_without_progress_is_interrupted(run: Callable[[Callable[[], None]], None]) -> None:
    watchdog, started = Watchdog(0.2), time.monotonic()

    def hang() -> None:
        with watchdog:
            while time.monotonic() - started < HANG_S:
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        run(hang)
    assert watchdog.has_barked
    assert time.monotonic() - started < HANG_S / 2


@pytest.mark.parametrize("run", [run_here, run_in_thread])
def test_a_block_with_progress_is_not_interrupted(
    run: Callable[[Callable[[], None]], None],
) -> None:
    watchdog = Watchdog(2.0)

    def work() -> None:
        with watchdog:
            for _ in range(25):  # 2.5 s in all, more than the limit
                time.sleep(0.1)
                watchdog.hear()

    run(work)
    assert not watchdog.has_barked


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("run", [run_here, run_in_thread])
def test_a_dataset_that_hangs_is_ended_with_its_tasks(
    run: Callable[[Callable[[], None]], None],
) -> None:
    watchdog, started = Watchdog(2.0), time.monotonic()

    def sleep(block: pa.Table) -> pa.Table:
        time.sleep(HANG_S)
        return block

    def hang() -> None:
        dataset = ray.data.from_blocks([pa.table({"id": [0]})])
        with watchdog:
            dataset.map_batches(
                sleep, batch_size=None, batch_format="pyarrow", num_cpus=TASK_CPUS
            ).materialize()

    with pytest.raises(KeyboardInterrupt):
        run(hang)
    assert watchdog.has_barked
    assert time.monotonic() - started < HANG_S * 0.8
    executors = [t for t in threading.enumerate() if t.name.startswith("StreamingExecutor")]
    for thread in executors:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("run", [run_here, run_in_thread])
def test_segment_ends_in_an_error_that_names_the_flag(
    run: Callable[[Callable[[], None]], None], tmp_path: Path, tiny_model: str
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8), "png"))
    config = SegmentConfig(
        model=tiny_model,
        images=f"{tmp_path}/images",
        output=f"{tmp_path}/tables",
        stall_minutes=0.01,  # an actor takes longer to start, as it loads torch
    )
    with pytest.raises(UnetRayError, match="no image was measured for 0.01 min"):
        run(lambda: segment(config) and None)
    (record,) = (tmp_path / "tables/runs").glob("*.json")
    assert '"status": "failed"' in record.read_text()
