"""Answers of Google Cloud Storage, as its references have them, become the errors of any store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.auth.exceptions import RefreshError, TransportError

from tests.faulty_store import Answer, Request, faulty_store
from unet_ray.errors import CredentialsError, InputError
from unet_ray.storage.retry import mapped_errors
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock

pytest.importorskip("gcsfs", reason="no extra gcs here")

_ANONYMOUS = "Anonymous caller does not have storage.objects.get access to the object."
_DENIED = "job@project.iam.gserviceaccount.com does not have storage.objects.get access."


class Refusal:
    """Answers each request with the same error, and counts them."""

    def __init__(self, status: int, message: str) -> None:
        self._status, self._message = status, message
        self.requests = 0

    def answer(self, request: Request) -> Answer:
        self.requests += 1
        error = {"error": {"code": self._status, "message": self._message}}
        return Answer(
            self._status, json.dumps(error).encode(), {"Content-Type": "application/json"}
        )


@pytest.fixture
def refuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that makes the store answer each request with an error."""

    async def go_on(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=go_on))
    refusal = Refusal(200, "")
    with faulty_store("http://127.0.0.1:9", answer=lambda asked: refusal.answer(asked)) as store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.endpoint)

        def change(status: int, message: str) -> Refusal:
            nonlocal refusal
            refusal = Refusal(status, message)
            return refusal

        yield change


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Invalid bucket name: 'B'", OSError),
        (400, "The request is invalid.", OSError),
        (401, _ANONYMOUS, PermissionError),
        (401, "Invalid Credentials", CredentialsError),
        (403, _DENIED, PermissionError),
        (404, "No such object: bucket/x", FileNotFoundError),
        (416, "The requested range cannot be satisfied.", OSError),
        (429, "The rate of requests is too high.", ConnectionError),
        (502, "Bad Gateway", ConnectionError),
        (503, "We encountered an internal error. Please try again.", ConnectionError),
    ],
)
def test_an_answer_is_the_error_of_any_store(
    refuse: Any, status: int, message: str, kind: type[Exception]
) -> None:
    refuse(status, message)
    folder = Storage.of("gs://bucket/folder")
    for request in (
        lambda: folder.read("x"),
        lambda: folder.join("x").read_content(0, 10),
        lambda: folder.write("x", b"x"),
    ):
        with pytest.raises(kind) as error:
            request()
        assert type(error.value) is kind
    if kind is not FileNotFoundError:
        with pytest.raises((kind, InputError)):
            folder.exists("x")


def test_requests_of_a_busy_store_are_repeated_by_its_client_alone(refuse: Any) -> None:
    refusal = refuse(503, "We encountered an internal error. Please try again.")
    with pytest.raises(ConnectionError):
        Storage.of("gs://bucket").read("x")
    assert refusal.requests == 6


def test_credentials_that_ended_stop_a_run_with_one_line(refuse: Any) -> None:
    refuse(401, "Invalid Credentials")
    with pytest.raises(CredentialsError, match=r"credentials for gs://bucket ended at .*Invalid"):
        OutputLock(Storage.of("gs://bucket/tables"), "mine").__enter__()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RefreshError("invalid_grant: Token has been expired or revoked."), CredentialsError),
        (TransportError("Connection refused"), ConnectionError),
    ],
)
def test_errors_of_the_token_service_are_told_apart(error: Exception, kind: type) -> None:
    with pytest.raises(kind), mapped_errors("gs://bucket/x"):
        raise error
