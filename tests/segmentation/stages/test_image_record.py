"""An error becomes the failure of its image, and what is decoded becomes part of its record."""

from __future__ import annotations

import numpy as np
import pytest

from tests.builders import make_record
from unet_ray.errors import CredentialsError, ImageError
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.image_place import WHOLE
from unet_ray.segmentation.stages.image_record import Failure, ImageRecord


def test_an_error_of_an_image_becomes_its_failure() -> None:
    record = make_record("a.png", (3, 4, 1)).fail(ImageError("missing", "gone"), "read")
    assert record.failure == Failure("missing", "gone", "read")
    assert Failure.of(MemoryError(), "predict").error_type == "out_of_memory"
    assert Failure.of(KeyError("x\ny"), "measure").error_type == "internal"
    assert "\n" not in Failure.of(KeyError("x\ny"), "measure").message


def test_credentials_that_ended_are_the_error_of_no_image() -> None:
    """Whatever stage met them, the error goes on to who can stop the run."""
    error = CredentialsError.ended("s3://bucket", "ExpiredToken")
    with pytest.raises(CredentialsError, match="credentials for s3://bucket ended at"):
        Failure.of(error, "decode")


def test_a_decoded_image_says_which_of_its_pixels_are_there() -> None:
    valid = np.random.default_rng(0).random((5, 7)) < 0.5
    listed = ImageRecord(ImageSource("a.png", WHOLE, etag="e", size=9))
    image = DecodedImage(np.zeros((5, 7, 1), np.uint8), valid, notes=("one", "two"))
    found = listed.with_decoded(image, num_channels=3)
    assert (found.size, found.channels, found.note) == ((5, 7), 3, "one; two")
    np.testing.assert_array_equal(found.valid_hw, valid)
    assert found.valid_pixels == valid.sum()
    whole = listed.with_decoded(DecodedImage(image.samples), num_channels=1)
    assert (whole.valid_hw, whole.valid_pixels, whole.note) == (None, 35, None)
