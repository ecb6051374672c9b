"""The record of an image: all that is known about it, from the plan to the rows of the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import CredentialsError, ImageError, one_line
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.pixel_size import SizeUm
from unet_ray.tables.binary_columns import unpack_bits


@dataclass(frozen=True)
class Failure:
    """Reason why an image failed."""

    error_type: str
    message: str
    stage: str
    """Stage that failed: read, decode, predict or measure."""

    @staticmethod
    def of(error: Exception, stage: str) -> Failure:
        """Return the failure of an image after an error at a stage.

        Raises:
            CredentialsError: The error is one, which is not the fault of an image.
        """
        if isinstance(error, CredentialsError):
            raise error
        if isinstance(error, ImageError):
            return Failure(error.error_type, error.message, stage)
        kind = "out_of_memory" if isinstance(error, MemoryError) else "internal"
        return Failure(kind, one_line(error), stage)


@dataclass(frozen=True)
class ImageRecord:
    """One image on its way through the stages, each of which adds what it finds.

    It has no columns of the run, which are added when shards are written. Between the stages a
    record is a row of an Arrow table; `columns` converts between the two.
    """

    source: ImageSource
    """The image as it was listed; the size is that of the file once it has been read."""
    height: int | None = None
    """Height (px); None until it is decoded, like the fields below."""
    width: int | None = None
    channels: int | None = None
    """Number of channels for the network."""
    valid: bytes | None = None
    """Valid pixels, packed by `np.packbits`; None: all are valid, or the image is read in
    windows."""
    valid_pixels: int | None = None
    """Number of valid pixels."""
    pixel_size_um: SizeUm | None = None
    """Width and height of a pixel (µm); None if the file does not say."""
    note: str | None = None
    """Choice made where the file can be read in two ways."""
    content_hash: str | None = None
    """Hash of the bytes of the image; None if it is not asked for."""
    region_count: int | None = None
    """Number of its regions; None until it is measured."""
    segmented_at: datetime | None = None
    """Time at which it was measured, or found to have failed."""
    failure: Failure | None = None
    """Reason why it failed; None: it has not."""
    read_s: float = 0.0
    """Seconds that reading took; likewise those of the other stages."""
    decode_s: float = 0.0
    predict_s: float = 0.0
    measure_s: float = 0.0
    batch_divisor: int = 1
    """Divisor of the predictor's batch size; more than 1 if its memory was too small."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a decoded image (px)."""
        assert self.height is not None, "the image was not decoded"
        assert self.width is not None
        return self.height, self.width

    @property
    def valid_hw(self) -> NDArray[np.bool_] | None:
        """Valid pixels, (H, W); None: all are valid."""
        return None if self.valid is None else unpack_bits(self.valid, *self.size)

    def with_decoded(self, image: DecodedImage, num_channels: int) -> ImageRecord:
        """Return the record with what decoding found besides the pixels.

        Args:
            image: The image as it was decoded.
            num_channels: Number of channels that the network takes of it.
        """
        valid = image.valid
        return replace(
            self,
            height=image.height,
            width=image.width,
            channels=num_channels,
            valid=None if valid is None else np.packbits(valid).tobytes(),
            valid_pixels=image.height * image.width if valid is None else int(valid.sum()),
            pixel_size_um=image.pixel_size_um,
            note="; ".join(image.notes) or None,
        )

    def fail(self, error: Exception, stage: str) -> ImageRecord:
        """Return the record of the image after an error at a stage.

        Raises:
            CredentialsError: The error is one, which is not the fault of an image.
        """
        return replace(self, failure=Failure.of(error, stage))
