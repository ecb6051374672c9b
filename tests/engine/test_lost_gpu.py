"""A predictor that loses its GPU, on a real Ray; the loss is simulated, so no GPU is needed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import torch
from ray.data import ActorPoolStrategy

from unet_ray.cluster.attempts import Attempts
from unet_ray.segmentation.guard import Guard
from unet_ray.segmentation.predict_actor import PredictActor


@pytest.mark.usefixtures("ray_local")
def test_another_actor_takes_over_from_one_that_lost_its_gpu(tmp_path: Path) -> None:
    class Actor(PredictActor):
        def __init__(self, guard: Guard) -> None:
            self._guard, self._deadline = guard, guard.make_deadline()
            self._predict = self.predict_or_lose_gpu

        def predict_or_lose_gpu(self, table: Any) -> Any:
            is_first = not any(tmp_path.iterdir())
            (tmp_path / str(table["image_uri"][0])).touch()
            if is_first:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            yield table

    tables = [pa.table({"image_uri": [f"{index}"]}) for index in range(5)]
    pool = ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2)
    with Attempts() as attempts:
        chain = ray.data.from_blocks(tables).map_batches_internal(
            Actor,
            fn_constructor_args=(Guard(attempts, lambda _: None, 60.0),),
            compute=pool,
            batch_format="pyarrow",
            batch_size=None,
        )
        assert sorted(row["image_uri"] for row in chain.take_all()) == list("01234")
    assert len(list(tmp_path.iterdir())) == 5
