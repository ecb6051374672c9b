"""Fixtures of the tests of stores."""

from __future__ import annotations

import pytest

from tests.conftest import new_bucket
from unet_ray.storage.storage import Storage


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """Return the URI of a bucket with one object."""
    uri = new_bucket(request)
    Storage.of(uri).write("object", b"content")
    return uri
