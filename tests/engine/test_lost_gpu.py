"""A predictor that loses its GPU, on a real Ray; the loss is simulated, so no GPU is needed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import torch
from ray.data import ActorPoolStrategy

from unet_ray.segmentation.predict_actor import PredictActor


@pytest.mark.usefixtures("ray_local")
def test_another_actor_takes_over_from_one_that_lost_its_gpu(tmp_path: Path) -> None:
    class Actor(PredictActor):
        def __init__(self) -> None:
            self._predict = self.predict_or_lose_gpu

        def predict_or_lose_gpu(self, table: Any) -> Any:
            is_first = not any(tmp_path.iterdir())
            (tmp_path / str(table["id"][0])).touch()
            if is_first:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            yield table

    tables = [pa.table({"id": [index]}) for index in range(5)]
    pool = ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2)
    chain = ray.data.from_blocks(tables).map_batches_internal(
        Actor, compute=pool, batch_format="pyarrow", batch_size=None
    )
    assert sorted(row["id"] for row in chain.take_all()) == list(range(5))
    assert len(list(tmp_path.iterdir())) == 5
