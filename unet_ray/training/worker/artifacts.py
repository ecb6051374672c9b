"""Event files and pictures that a training leaves in its run folder for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from unet_ray.imaging.drawing.panels import draw_comparison
from unet_ray.network.unet import UNet
from unet_ray.network.weights import load_weights
from unet_ray.storage.storage import Storage
from unet_ray.training.curves import draw_curves
from unet_ray.training.progress import EpochRecord, Progress
from unet_ray.training.tensorboard import EventLog
from unet_ray.training.validation import Validation
from unet_ray.training.worker.group import WorkerGroup
from unet_ray.training.worker.settings import WorkerSettings


@contextmanager
def open_event_log(
    run_folder: Storage, group: WorkerGroup
) -> Iterator[Callable[[EpochRecord], None]]:
    """Open a TensorBoard event file for the `with` block; only the first worker writes one.

    Args:
        run_folder: Run folder.
        group: The workers.

    Yields:
        Function that adds an epoch.
    """
    if not group.is_first:
        yield lambda _: None
        return
    with closing(EventLog(run_folder)) as log:
        yield log.write


def draw_pictures(
    settings: WorkerSettings, progress: Progress, best: bytes, validation: Validation
) -> None:
    """Draw the learning curves, and the validation images that the best network does worst on.

    Args:
        settings: Settings of the training.
        progress: Progress at the end of the training.
        best: Weights of the best epoch as safetensors.
        validation: Validation images.
    """
    epoch, run_folder, setup = progress.best, settings.run_folder, settings.setup
    run_folder.write("curves.png", draw_curves(list(progress.history), epoch.epoch))
    if not epoch.worst:
        return
    network = UNet(setup.network)
    network.load_state_dict(load_weights(best, setup.network))
    thresholds = tuple(epoch.thresholds[c.name] for c in setup.sampler.labelling.classes)
    rows = validation.compare(network, epoch.worst, thresholds)
    if rows:
        run_folder.write("worst.png", draw_comparison(rows))
