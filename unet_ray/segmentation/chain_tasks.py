"""Tasks of the chain that run no network: each runs a stage on a block, under the guard.

They have their own module because a process loads everything that its task's module imports.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from unet_ray.segmentation.guard import Guard
from unet_ray.segmentation.stages.decode import Decode, describe_new_decoder
from unet_ray.segmentation.stages.measure import Measure, summarize_work
from unet_ray.segmentation.stages.work_done import WorkDone


def decode_block(plan: pa.Table, stage: Decode, guard: Guard, run_id: str) -> Iterator[pa.Table]:
    """Decode a block of images, and report the decoder's confinement to the driver once.

    Args:
        plan: A table of PLAN.
        stage: The stage, with the settings of the run.
        guard: Guard of the chain.
        run_id: Id of the run.

    Yields:
        Tables of PIXELS.
    """
    if confinement := describe_new_decoder(run_id):
        guard.post(WorkDone(confinement=confinement))
    yield from guard.run("decode", stage, plan)


def measure_block(probabilities: pa.Table, stage: Measure, guard: Guard) -> Iterator[pa.Table]:
    """Measure a block of images, and report the work to the driver.

    Args:
        probabilities: A table of PROBABILITIES.
        stage: The stage, with the settings of the run.
        guard: Guard of the chain.

    Yields:
        Tables of ROWS.
    """
    for rows in guard.run("measure", stage, probabilities, guard.make_deadline()):
        guard.post(summarize_work(rows))
        yield rows
