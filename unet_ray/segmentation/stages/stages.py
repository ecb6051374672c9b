"""All stages of a run with their settings, as they are sent to the workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet_ray.imaging.channels import ChannelSelection
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    from unet_ray.segmentation.stages.predict import Predict


@dataclass(frozen=True)
class Stages:
    """The stages decode, predict and measure."""

    access: Storage
    """Storage that opens the images' URIs."""
    preprocessing: Preprocessing
    check_etags: bool
    """True if the plan's etags are the store's: a file with another etag has changed since."""
    block_bytes: int
    """Decoded bytes at which the decode stage hands on a table."""
    predictor: PredictorConfig
    """Settings of tiling and of the network."""
    measure: Measure
    channels: ChannelSelection
    """Channels that the network takes of each image."""
    pixel_size_um: tuple[float, float] | None = None
    """Width and height of pixels for the network (µm); None: images are not resampled."""
    lossy_samples: bool = False
    """True to round whole numbers that float32 does not hold."""
    keep_hash: bool = False
    """True to hash the bytes of each image."""

    @property
    def decode(self) -> Decode:
        """The decode stage, from plan to pixels."""
        return Decode(
            access=self.access,
            preprocessing=self.preprocessing,
            check_etags=self.check_etags,
            block_bytes=self.block_bytes,
            channels=self.channels,
            pixel_size_um=self.pixel_size_um,
            lossy_samples=self.lossy_samples,
            keep_hash=self.keep_hash,
        )

    def build_predict(self, model: Model, tell: Callable[[int, int], None]) -> Predict:
        """Build the network on its device, and return the predict stage.

        Args:
            model: Model with the network.
            tell: Function that is called with numbers of tiles of large images, (done, to do) since
                the last call.
        """
        # torch takes seconds to load, and the other stages do not need it
        from unet_ray.network.predictor import Predictor
        from unet_ray.segmentation.stages.large_image import PredictLarge
        from unet_ray.segmentation.stages.predict import Predict

        predictor = Predictor(model.build(), model.preprocessing, self.predictor)
        large = PredictLarge(
            access=self.access,
            predictor=predictor,
            measure=self.measure,
            check_etags=self.check_etags,
            post=tell,
            channels=self.channels,
            pixel_size_um=self.pixel_size_um,
            lossy_samples=self.lossy_samples,
            keep_hash=self.keep_hash,
        )
        return Predict(predictor, large, self.pixel_size_um)
