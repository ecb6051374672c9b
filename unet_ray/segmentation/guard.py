"""The guard of a stage: a block whose processes die is set aside, not retried forever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from unet_ray.cluster.attempts import Attempts
from unet_ray.errors import CredentialsError
from unet_ray.segmentation.deadline import Deadline
from unet_ray.segmentation.stages.work_done import WorkDone

_DEATHS = 2
"""Number of process deaths after which a block is set aside."""


@dataclass(frozen=True)
class Guard:
    """Runs stages on blocks in the tasks of a chain.

    Ray retries a task whose process died, without limit. If an image kills its process, the whole
    run would wait for it. So a block is set aside after two deaths: the stage yields nothing, and
    the driver later finds that its images are not written (`isolation`).

    If credentials end, the guard tells the driver, and the stage yields nothing more.
    """

    attempts: Attempts
    post: Callable[[WorkDone], None]
    """Function that reports to the driver."""
    hang_s: float
    """Longest time that a stage may take for its next table (s)."""

    def make_deadline(self) -> Deadline:
        """Return a deadline for the work of this process."""
        return Deadline(self.hang_s)

    def run(
        self,
        name: str,
        stage: Callable[[pa.Table], Iterable[pa.Table]],
        block: pa.Table,
        deadline: Deadline | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the tables that a stage makes of a block; nothing if the block is set aside.

        Args:
            name: Name of the stage.
            stage: The stage, from table to tables.
            block: A table with the column `image_uri`.
            deadline: Ends the process if the stage makes no progress.
        """
        if not len(block):
            return
        key = f"{name} {block['image_uri'][0]}"
        if self.attempts.begin(key) >= _DEATHS:
            self.post(WorkDone(set_aside=tuple(block["image_uri"].to_pylist())))
            return
        tables = iter(stage(block))
        try:
            while (table := _next(tables, deadline)) is not None:
                yield table  # Ray may wait here until there is room for the table
        except CredentialsError as error:  # raising it would stop what others are measuring
            self.post(WorkDone(lost_credentials=str(error)))
        self.attempts.end(key)


def _next(tables: Iterator[pa.Table], deadline: Deadline | None) -> pa.Table | None:
    if deadline is None:
        return next(tables, None)
    with deadline.working():
        return next(tables, None)
