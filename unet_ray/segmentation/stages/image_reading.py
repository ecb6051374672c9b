"""Settings by which a run reads its images, whole (`decode`) or in windows (`large_image`)."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.imaging.channels import ChannelSelection
from unet_ray.storage.storage import Storage


@dataclass(frozen=True)
class ImageReading:
    """The settings by which images are read and decoded."""

    access: Storage
    """Storage that opens the images' URIs."""
    check_etags: bool
    """True if the plan's etags are the store's: a file with another etag has changed since."""
    channels: ChannelSelection | None = None
    """Channels that the network takes of each image; a run always sets them, from the model unless
    `--channels` is given. None: all."""
    pixel_size_um: tuple[float, float] | None = None
    """Width and height of pixels for the network (µm); None: images are not resampled."""
    lossy_samples: bool = False
    """True to round whole numbers that float32 does not hold."""
    keep_hash: bool = False
    """True to hash the bytes of each image. A large image is read once more for that."""
