"""Emulators of Google Cloud Storage and Azure, which tests start on this machine.

`gcp-storage-emulator` comes with the extra `test`. It knows no conditions, no generations and no
pages: GcsRules plays them in a proxy before it. Azurite, the emulator of Azure by Microsoft, is a
package of npm. It needs no proxy; where it is not installed, tests that need it are skipped.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.conftest import free_port, listens
from tests.faulty_store import Answer, Request, faulty_store
from unet_ray.storage.storage import Storage

PAGE = 3
"""Most objects in a page of a listing of the emulators' proxies: pages are met by every test."""
_AZURITE = "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Azurite's documentation gives: it opens nothing else."""
_KEPT = ("Content-Type", "Content-Range", "Location", "Range", "X-Goog-Hash")
"""Headers of the emulator's answers that are passed on."""
_numbers = count(1)


class GcsRules:
    """What Google Cloud Storage does and the emulator does not, as its JSON API is documented.

    An upload with `ifGenerationMatch=0` is refused with 412 where there is an object, and none can
    come between the look and the upload. A GET of another generation than the current one is
    answered with 404. Listings come in pages. A range that begins after the end is answered with
    416.

    Args:
        endpoint: Endpoint of the emulator.
    """

    def __init__(self, endpoint: str) -> None:
        self._place = urlsplit(endpoint)
        self._lock = threading.Lock()
        """Held during each request: the emulator answers one at a time."""

    def answer(self, request: Request) -> Answer:
        """Answer a request, with the help of the emulator."""
        with self._lock:
            return self._refuse(request) or self._cut(request, self._ask(request))

    def _ask(self, request: Request) -> Answer:
        place = http.client.HTTPConnection(self._place.hostname or "", self._place.port, timeout=60)
        place.request(request.command, request.path, request.body, dict(request.headers.items()))
        reply = place.getresponse()
        body = reply.read()
        place.close()
        kept = {name.title(): value for name, value in reply.getheaders() if name.title() in _KEPT}
        return Answer(reply.status, body, kept)

    def _refuse(self, request: Request) -> Answer | None:
        """Return the answer to a request whose condition does not hold; None: it holds."""
        path, query = _parse(request)
        if query.get("ifGenerationMatch") == "0":
            bucket = path.split("/")[5]  # /upload/storage/v1/b/BUCKET/o
            name = query.get("name") or _read_name(request.body)
            if self._find(bucket, name) is not None:
                return _error(412, "At least one of the pre-conditions you specified did not hold.")
        if path.startswith("/download/"):
            _, _, _, _, _, bucket, _, name = path.split(
                "/", 7
            )  # /download/storage/v1/b/BUCKET/o/NAME
            found = self._find(bucket, unquote(name))
            if found is None or found["generation"] != query.get("generation", found["generation"]):
                return _error(404, f"No such object: {bucket}/{name}")
            piece = request.headers["Range"]
            if piece and int(piece.removeprefix("bytes=").split("-")[0]) >= int(found["size"]):
                return _error(416, "The requested range cannot be satisfied.")
        return None

    def _find(self, bucket: str, name: str) -> Any:
        """Return the resource of an object; None where there is none."""
        path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        found = self._ask(Request("GET", path, http.client.HTTPMessage(), b""))
        return json.loads(found.body) if found.status == 200 else None

    def _cut(self, request: Request, answer: Answer) -> Answer:
        """Return a listing's page that was asked for; other answers as they are."""
        path, query = _parse(request)
        if request.command != "GET" or not path.endswith("/o") or answer.status != 200:
            return answer
        whole = json.loads(answer.body)
        if whole.get("prefixes"):
            return answer
        first = int(query.get("pageToken", 0))
        end = first + min(PAGE, int(query.get("maxResults", PAGE)))
        page = whole | {"items": whole["items"][first:end], "kind": "storage#objects"}
        if end < len(whole["items"]):
            page["nextPageToken"] = str(end)
        return Answer(200, json.dumps(page).encode(), answer.headers)


def _parse(request: Request) -> tuple[str, dict[str, str]]:
    """Return the path of a request, and its query."""
    parts = urlsplit(request.path)
    return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


def _read_name(body: bytes) -> str:
    """Return the name of the object that an upload in two parts describes in the first."""
    name: str = json.loads(body.split(b"\n\n")[1].split(b"\n")[0])["name"]
    return name


def _error(status: int, message: str) -> Answer:
    """Return an error as the JSON API writes it."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return Answer(status, body, {"Content-Type": "application/json"})


@contextmanager
def gcs_emulator() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage, and yield the endpoint of the proxy before it."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="no extra test here")
    pytest.importorskip("gcsfs", reason="no extra gcs here")
    port = free_port()
    with emulator.create_server("127.0.0.1", port, in_memory=True):
        endpoint = f"http://127.0.0.1:{port}"
        with faulty_store(endpoint, answer=GcsRules(endpoint).answer) as store:
            yield store.endpoint


@contextmanager
def azure_emulator(folder: str) -> Iterator[str]:
    """Run Azurite, and yield the connection string of its account.

    Args:
        folder: Folder for its blobs.
    """
    pytest.importorskip("adlfs", reason="no extra azure here")
    command = shutil.which(_AZURITE)
    if command is None:
        pytest.skip(
            "no Azurite here: run npm install --global azurite, or give its azurite-blob in PATH"
        )
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder]
    # the SDK may be newer than the emulator, which sends what it sees to its makers unless told not
    how = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    server = subprocess.Popen(
        [command, *place, *how], start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        assert listens(server, port), "Azurite did not start"
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def new_place(scheme: str) -> str:
    """Return the URI of a new bucket or container; its emulator runs and variables name it."""
    place = Storage.of(f"{scheme}://bucket-{os.getpid()}-{next(_numbers)}")
    place.filesystem.mkdir(place.path)
    return place.uri
