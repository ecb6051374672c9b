"""The size of the blocks that go from stage to stage, on a real Ray."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from unet_ray.cluster.ray_data import TASK_CPUS, limited_blocks


@pytest.mark.usefixtures("ray_local")
def test_blocks_that_a_task_yields_are_not_joined_beyond_the_block_size() -> None:
    def yield_thrice(_: pa.Table) -> Iterator[pa.Table]:
        for _ in range(3):
            yield pa.table({"pixels": np.zeros(2**20, np.uint8)})

    def blocks() -> int:
        whole = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": TASK_CPUS}
        return (
            ray.data.from_blocks([pa.table({"id": [0]})])
            .map_batches(yield_thrice, **whole)
            .materialize()
            .num_blocks()
        )

    context = DataContext.get_current()
    before = context.target_max_block_size, context.execution_options.resource_limits
    with limited_blocks(2**20 - 1, limit_bytes=2**26):
        assert blocks() == 3
    assert (context.target_max_block_size, context.execution_options.resource_limits) == before
    assert blocks() == 1
