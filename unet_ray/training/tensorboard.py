"""Event files for TensorBoard."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path

from unet_ray.storage.storage import Storage
from unet_ray.storage.temporary import temporary_prefix
from unet_ray.training.console import GIB
from unet_ray.training.progress import EpochRecord


class EventLog:
    """A TensorBoard event file of a run, complete in the run folder after every epoch.

    Object stores cannot append, so the file grows in a local temporary folder and is stored as a
    whole each time (about half a kilobyte per epoch). A restarted run writes a new file, and
    TensorBoard drops the epochs of older files that the new one repeats. Call `close` at the end.

    Args:
        run_folder: Run folder; the file goes to its folder `tensorboard`.
    """

    def __init__(self, run_folder: Storage) -> None:
        # Not SummaryWriter, which writes from another thread, even after flush() has returned.
        from tensorboardX.event_file_writer import EventsWriter

        self._run_folder = run_folder
        self._folder = tempfile.TemporaryDirectory(prefix=temporary_prefix())
        self._writer = EventsWriter(f"{self._folder.name}/events", f".{uuid.uuid4().hex[:8]}")
        (self._file,) = Path(self._folder.name).iterdir()
        self._started = False

    def write(self, record: EpochRecord) -> None:
        """Add an epoch and store the file.

        Raises:
            OSError: The file cannot be stored. The file of the next epoch holds this one too.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if not self._started:
            start = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=record.epoch, session_log=start)
            self._writer.write_event(event)
            self._started = True
        values: dict[str, float | None] = {
            "loss": record.loss,
            "learning_rate": record.learning_rate,
            "crops_per_s": record.crops_per_s,
            "data_wait": record.data_wait,
        }
        values |= {f"dice/{name}": value for name, value in record.dice.items()}
        values |= {f"iou/{name}": value for name, value in record.iou.items()}
        if record.gpu_memory_bytes is not None:
            values["gpu_memory_gib"] = record.gpu_memory_bytes / GIB
        summary = Summary()
        for tag, value in values.items():
            if value is not None:  # undefined values are left out
                summary.value.add(tag=tag, simple_value=value)
        event = Event(wall_time=time.time(), step=record.epoch, summary=summary)
        self._writer.write_event(event)
        self._writer.flush()
        self._run_folder.write(f"tensorboard/{self._file.name}", self._file.read_bytes())

    def close(self) -> None:
        """Remove the temporary folder; later calls do nothing."""
        if self._file.exists():
            self._writer.close()
            self._folder.cleanup()
