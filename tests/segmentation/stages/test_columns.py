"""What an error becomes in the tables that go from stage to stage."""

from __future__ import annotations

import pytest

from unet_ray.errors import CredentialsError, ImageError
from unet_ray.segmentation.stages.columns import failure


def test_an_error_of_an_image_becomes_its_columns() -> None:
    assert failure(ImageError("missing", "gone"), "read") == {
        "error_type": "missing",
        "error": "gone",
        "error_stage": "read",
    }


def test_credentials_that_ended_are_the_error_of_no_image() -> None:
    """Whatever stage met them, the error goes on to who can stop the run."""
    error = CredentialsError.ended("s3://bucket", "ExpiredToken")
    with pytest.raises(CredentialsError, match="credentials for s3://bucket ended at"):
        failure(error, "decode")
