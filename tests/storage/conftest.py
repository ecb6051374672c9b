"""Places of the tests of storage, on every kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import new_bucket
from tests.emulators import new_place
from unet_ray.storage.storage import Storage

_SERVERS = {"gs": "gcs_server", "az": "azure_server"}
"""Scheme -> fixture that starts an emulator of its store."""


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """Return the URI of a bucket with one object."""
    uri = new_bucket(request)
    Storage.of(uri).write("object", b"content")
    return uri


@pytest.fixture(params=["local", "s3", "gs", "az"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of an empty place: a local folder, or a bucket of its own."""
    if request.param == "local":
        return str(tmp_path)
    if request.param == "s3":
        return new_bucket(request)
    request.getfixturevalue(_SERVERS[request.param])
    return new_place(request.param)
