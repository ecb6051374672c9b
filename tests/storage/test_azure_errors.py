"""Answers of Azure, as its references have them, become the errors of any store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.emulators import ACCOUNT, KEY
from tests.faulty_store import Answer, faulty_store
from unet_ray.errors import CredentialsError
from unet_ray.storage.backends.base import ArchivedFileError
from unet_ray.storage.storage import Storage

pytest.importorskip("adlfs", reason="no extra azure here")

_SIGNATURE_ENDED = (
    "Server failed to authenticate the request.</Message><AuthenticationErrorDetail>Signature not "
    "valid in the specified time frame: Start [Sun, 29 Nov 2026 00:00:00 GMT]"
    "</AuthenticationErrorDetail><Message>"
)


def answer(status: int, code: str, message: str) -> Answer:
    """Return an error as Azure writes it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode(), {"x-ms-error-code": code})


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that makes a store answer each request alike, and returns its folder."""
    monkeypatch.setattr(
        "azure.storage.blob.aio.ExponentialRetry.get_backoff_time", lambda *_: 0.001
    )
    given = answer(200, "", "")
    with faulty_store("http://127.0.0.1:9", answer=lambda _: given) as store:
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={store.endpoint}/{ACCOUNT};"
        )

        def change(*error: Any) -> Storage:
            nonlocal given
            given = answer(*error)
            return Storage("az://container/folder", {"connection_string": connection})

        yield change


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "InvalidResourceName", "The resource name contains invalid characters.", OSError),
        (401, "InvalidAuthenticationInfo", "The token is expired.", CredentialsError),
        (403, "AuthenticationFailed", _SIGNATURE_ENDED, CredentialsError),
        (403, "AuthenticationFailed", "Server failed to authenticate.", PermissionError),
        (403, "AuthorizationPermissionMismatch", "Not authorized.", PermissionError),
        (404, "BlobNotFound", "The specified blob does not exist.", FileNotFoundError),
        (404, "ContainerNotFound", "The container does not exist.", FileNotFoundError),
        (409, "BlobArchived", "Not permitted on an archived blob.", ArchivedFileError),
        (409, "ContainerBeingDeleted", "The container is being deleted.", OSError),
        (416, "InvalidRange", "The range specified is invalid.", OSError),
        (429, "TooManyRequests", "Too many requests.", ConnectionError),
        (500, "InternalError", "Internal error.", ConnectionError),
        (503, "ServerBusy", "The server is busy.", ConnectionError),
    ],
)
def test_an_answer_is_the_error_of_any_store(
    refuse: Any, status: int, code: str, message: str, kind: type[Exception]
) -> None:
    folder = refuse(status, code, message)
    for request in (
        lambda: folder.read("x"),
        lambda: folder.join("x").read_content(5, 10),
        lambda: folder.write("x", b"x"),
    ):
        with pytest.raises(kind) as error:
            request()
        assert type(error.value) is kind
        assert "\n" not in str(error.value)
