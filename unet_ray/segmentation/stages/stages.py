"""All stages of a run with their settings, as they are sent to the workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.measure import Measure

if TYPE_CHECKING:
    from unet_ray.segmentation.stages.predict import Predict


@dataclass(frozen=True)
class Stages:
    """The stages decode, predict and measure."""

    reading: ImageReading
    """Settings by which images are read."""
    preprocessing: Preprocessing
    block_bytes: int
    """Decoded bytes at which the decode stage hands on a table."""
    predictor: PredictorConfig
    """Settings of tiling and of the network."""
    measure: Measure

    @property
    def decode(self) -> Decode:
        """The decode stage, from plan to pixels."""
        return Decode(self.reading, self.preprocessing, self.block_bytes)

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
        large = PredictLarge(self.reading, predictor, self.measure, tell)
        return Predict(predictor, large, self.reading.pixel_size_um)
