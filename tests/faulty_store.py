"""A proxy in front of an S3 server: it spoils a share of the requests, as stores do on a bad day.

It can also keep the condition of a PUT (If-None-Match), which the server behind it ignores, and
answer late, as a store does that is far away.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

FAULTS = ("slow_down", "reset", "stall", "cut")
STALL_S = 20.0
"""Length of a stall; s3fs waits 15 s for an answer."""
_NOT_MET = (
    b"<Error><Code>PreconditionFailed</Code><Message>A condition did not hold.</Message></Error>"
)
_ERRORS = {
    403: b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>",
    500: (
        b"<Error><Code>InternalError</Code>"
        b"<Message>We encountered an internal error.</Message></Error>"
    ),
}
_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True)
class Request:
    """A request of a client."""

    command: str
    path: str
    """Path and query."""
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """An answer that the proxy gives by itself."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def error(status: int, code: str, message: str) -> Answer:
        """Return an error as S3 writes it."""
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return Answer(status, text.encode())


ARCHIVED = Answer.error(
    403,
    "InvalidObjectState",
    "The operation is not valid for the object's storage class",
)
"""Answer of AWS to GET of an object in Glacier, as its API reference has it."""
EXPIRED = Answer.error(400, "ExpiredToken", "The provided token has expired.")
"""Answer of AWS to a session token that ended, as its API reference has it."""


class FaultyStore(ThreadingHTTPServer):
    """Proxy that passes requests on to a server and its answers back, and spoils some of them.

    Args:
        endpoint: Endpoint of the server, http://127.0.0.1:PORT.
        share: Share of the requests that are spoilt.
        seed: Seed of the draws.
        keeps_conditions: Answer 412 to a conditional PUT of a key that was put before.
        delay_s: Time that passes before a request is answered.
        refuse: Called with the method and the path (query included) of each request; returns the
            status to answer with, or None to pass the request on.
        answer: Called with each request before all else; returns the answer, or None.
        rewrite: Called with each request that was passed on, and the body of its answer; returns
            the body to answer with.
        keys: Access key and secret with which requests without a signature are signed, as if what
            they ask for were public; None: they are passed on as they are.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        endpoint: str,
        share: float = 0.0,
        seed: int = 0,
        keeps_conditions: bool = False,
        delay_s: float = 0.0,
        refuse: Callable[[str, str], int | None] = lambda _command, _path: None,
        answer: Callable[[Request], Answer | None] = lambda _request: None,
        rewrite: Callable[[Request, bytes], bytes] = lambda _request, data: data,
        keys: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._delay_s = delay_s
        self.refuse, self.answer, self.rewrite, self._keys = refuse, answer, rewrite, keys
        self.upstream = urlsplit(endpoint)
        self._share, self._random, self._lock = share, random.Random(seed), threading.Lock()
        self._put: set[str] | None = set() if keeps_conditions else None
        self.requests = 0
        self._under_way = 0
        self.most_under_way = 0
        """Largest number of requests that waited for their answers at the same time."""
        self.spoilt: Counter[str] = Counter()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str | None:
        """Return the fault of the next request, or None: it is passed on."""
        with self._lock:
            self.requests += 1
            if self._random.random() >= self._share:
                return None
            # in turn, so that few requests see each kind
            fault = FAULTS[self.spoilt.total() % len(FAULTS)]
            self.spoilt[fault] += 1
            return fault

    def wait(self) -> None:
        """Let the time pass that a far store takes."""
        with self._lock:
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
        time.sleep(self._delay_s)
        with self._lock:
            self._under_way -= 1

    def sign(self, request: Request) -> list[tuple[str, str]]:
        """Return the headers to pass on, with a signature where a public store needs none."""
        if self._keys is None or request.headers["Authorization"]:
            return request.headers.items()
        kept = {k: v for k, v in request.headers.items() if k.lower() in ("host", "range")}
        signed = AWSRequest(request.command, f"{self.endpoint}{request.path}", kept)
        S3SigV4Auth(Credentials(*self._keys), "s3", "us-east-1").add_auth(signed)
        return list(signed.headers.items())

    def meets_condition(self, command: str, path: str, if_none_match: str | None) -> bool:
        """Tell whether a request may be passed on; one of several conditional PUTs of a key may."""
        if self._put is None or command not in ("PUT", "DELETE"):
            return True
        with self._lock:
            if command == "DELETE":
                self._put.discard(path)
            elif if_none_match and path in self._put:
                return False
            else:
                self._put.add(path)
            return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients hang up on purpose here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyStore

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, self.headers, body)
        answer = self.server.answer(request)
        if answer is not None:
            headers = {"Content-Type": "application/xml", **answer.headers}
            self._answer(answer.status, headers, answer.body)
            return
        if not self.server.meets_condition(
            self.command, urlsplit(self.path).path, self.headers["If-None-Match"]
        ):
            self._answer(412, {"Content-Type": "application/xml"}, _NOT_MET)
            return
        status = self.server.refuse(self.command, self.path)
        if status is not None:
            self._answer(status, {"Content-Type": "application/xml"}, _ERRORS[status])
            return
        self.server.wait()
        fault = self.server.draw()
        if fault == "slow_down":
            self._answer(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "stall":
            time.sleep(STALL_S)
        upstream = http.client.HTTPConnection(
            self.server.upstream.hostname or "", self.server.upstream.port, timeout=60
        )
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.server.sign(request):
            upstream.putheader(name, value)  # Host as well: it is part of the signature
        upstream.endheaders(body)
        reply = upstream.getresponse()
        data = self.server.rewrite(request, reply.read())
        kept = {
            k: v
            for k, v in reply.getheaders()
            if k.lower() not in ("transfer-encoding", "connection")
        }
        if self.command != "HEAD":
            kept["Content-Length"] = str(len(data))
        kept.setdefault("Content-Length", str(len(data)))
        if fault == "cut" and len(data) > 1:
            data = data[: len(data) // 2]  # the headers promise all of it
            self.close_connection = True
        self._answer(reply.status, kept, data)
        upstream.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_store(endpoint: str, *settings: Any, **more: Any) -> Iterator[FaultyStore]:
    """Run a FaultyStore while the `with` block runs."""
    with FaultyStore(endpoint, *settings, **more) as store:
        thread = threading.Thread(target=store.serve_forever, daemon=True)
        thread.start()
        yield store
        store.shutdown()
        thread.join()
