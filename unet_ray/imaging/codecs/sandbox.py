"""A reused child process that decodes files which nobody vouches for: what kills it costs one image.

Decoders are C code and archives hold damaged and hostile files. A crash, an endless loop or a file that unfolds into
all memory ends the child, never the process that asked. Requests and replies are a line of JSON and raw bytes; nothing
that comes back is executed. The child opens no file: for windows of a large image it asks for ranges of bytes, and who
started it fetches them. Samples of all but the largest images come back in memory that both share. What the
child does: `decoder_child.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import Fetch, PageFile, RangeFile
from unet_ray.imaging.codecs.raster import MAX_PIXELS
from unet_ray.imaging.geometry import Box

TIME_LIMIT_S = 60.0
"""For one image: a hundred times what the largest that is decoded whole takes."""
_START_LIMIT_S = 60.0
"""For the child itself, which is no image's time."""
MEMORY_LIMIT_BYTES = 4 * 2**30
"""Address space of the child: 134 megapixels in colour, several times."""
_DTYPES = ("uint8", "uint16", "float32")
_PIECE = 2**20
"""Of what goes through pipes at once (bytes)."""
_MOST_RANGES = 2**16
"""That a child may ask for at once."""
SHARED_BYTES = 2**25
"""Images up to this size come back through shared memory: pipes would copy them twice, in pieces."""


def _nothing(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    raise AssertionError(f"no file is open, yet {ranges} are asked for")


class Decoder:
    """Decodes one image at a time in a child process, which is started at the first and after each that it dies of.

    Args:
        time_limit_s — for one image.
        memory_limit_bytes — address space of the child.
    """

    def __init__(
        self, time_limit_s: float = TIME_LIMIT_S, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        self._time_limit_s, self._memory_limit_bytes = time_limit_s, memory_limit_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._shared: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._fetch: Fetch = _nothing
        self._is_open = False

    def decode(self, data: bytes | PageFile, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
        """Decode an encoded image, as `images.decode_image` does.

        Raises: ImageError — as `decode_image`, and what a file raises that is read; `unreadable` where the decoder
            crashed or did not end in time, `too_large` where it needed more memory than it may.
        """
        request = {"do": "decode", "max_pixels": max_pixels}
        if isinstance(data, PageFile):
            return _samples(*self._asked(request | _described(data), _pieces_of(data), data.fetch))
        return _samples(*self._asked(request, data))

    def open(self, file: RangeFile) -> tuple[int, int]:
        """Open a large image for windows, in place of the one that was open, and return its height and width (px).

        Raises: ImageError — as `decode`.
        """
        self._fetch = file.fetch
        reply, _ = self._asked({"do": "open"} | _described(file), _pieces_of(file), file.fetch)
        self._is_open = True
        return int(reply["height"]), int(reply["width"])

    def window(self, box: Box) -> NDArray[Any]:
        """Return a window of the open image; raise ImageError as `decode`."""
        request = {"do": "window", "box": [box.top, box.left, box.bottom, box.right]}
        return _samples(*self._asked(request, fetch=self._fetch))

    def _asked(
        self, request: dict[str, Any], data: bytes = b"", fetch: Fetch = _nothing
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        with self._lock:
            child = self._running()
            if request["do"] == "window" and not self._is_open:
                raise ImageError("unreadable", "the decoder crashed on another window of the image")
            try:
                return self._ask(child, request | {"size": len(data)}, data, fetch)
            except ImageError:
                raise
            except TimeoutError:
                self.close()
                raise ImageError(
                    "unreadable", f"decoding it took longer than {self._time_limit_s:g} s"
                ) from None
            except (BrokenPipeError, EOFError):
                child.kill()
                ended = child.wait()
                self.close()
                why = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
                raise ImageError("unreadable", f"the decoder crashed ({why})") from None
            except BaseException:
                self.close()  # a reply half read would be taken for the next one's
                raise

    def close(self) -> None:
        """End the child; the next image starts another."""
        child, shared, self._child, self._shared = self._child, self._shared, None, None
        if shared is not None:
            shared.close()
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            shared = _sealed_memory()
            self._shared = mmap.mmap(shared, SHARED_BYTES)
            settings = self._time_limit_s, self._memory_limit_bytes, shared
            self._is_open = False
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__name__}_child", *map(str, settings)],
                # not the predictor's memory settings: what they hold ready would count against the child's limit
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, pass_fds=(shared,),
                env={name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")},
            )  # fmt: skip
            os.close(shared)
            for pipe in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(
                    OSError
                ):  # as large as is allowed: pixels take fewer turns
                    fcntl.fcntl(cast(Any, pipe).fileno(), fcntl.F_SETPIPE_SZ, _PIECE)
            try:
                self._read(
                    self._child, time.monotonic() + _START_LIMIT_S
                )  # it says when it is ready
            except TimeoutError:
                self.close()  # what it says later would be taken for the reply to an image
                raise TimeoutError(f"the decoder did not start in {_START_LIMIT_S:g} s") from None
            except BaseException:
                self.close()
                raise
        return self._child

    def _ask(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], data: bytes, fetch: Fetch
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        deadline = time.monotonic() + self._time_limit_s
        _send(
            child, json.dumps(request).encode() + b"\n", data
        )  # the child reads all of it before it decodes
        while True:
            reply, samples = self._read(child, deadline)
            if "error_type" in reply:
                raise ImageError(str(reply["error_type"]), str(reply["message"]))
            if "fetch" not in reply:
                return reply, samples
            ranges = _ranges_of(reply["fetch"])
            size = sum(length for _, length in ranges)
            if size > self._memory_limit_bytes:
                self.close()
                raise ImageError("too_large", f"decoding it needs {size} bytes of the file at once")
            started = time.monotonic()
            try:
                pieces = fetch(ranges)
            except BaseException:
                self.close()  # the child waits for bytes that will not come
                raise
            deadline += time.monotonic() - started  # the store's time is not the decoder's
            _send(child, json.dumps({"sizes": [*map(len, pieces)]}).encode() + b"\n", *pieces)

    def _read(
        self, child: subprocess.Popen[bytes], deadline: float
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        """Return the child's next reply: its line and the bytes that follow.

        Raises: TimeoutError — not there by the deadline; EOFError — the child ended, or wrote something else.
        """
        assert child.stdout is not None
        pipe, received = child.stdout.fileno(), bytearray()
        while b"\n" not in received:
            received += _receive(pipe, deadline)
        line, _, rest = received.partition(b"\n")
        try:
            reply = json.loads(line)
            if "dtype" not in reply:
                return reply, b""
            if reply["dtype"] not in _DTYPES or len(reply["shape"]) != 3:
                raise ValueError(reply)
            size = int(np.prod(reply["shape"])) * np.dtype(reply["dtype"]).itemsize
            is_shared = bool(reply["shared"])
            if size < 0 or (is_shared and size > SHARED_BYTES):
                raise ValueError(reply)
        except (ValueError, TypeError, KeyError) as error:
            raise EOFError from error
        if is_shared:
            assert self._shared is not None
            return reply, self._shared[:size]  # a copy: the next image takes its place
        samples = bytearray(size)
        samples[: len(rest)] = rest
        filled = len(rest)
        while filled < size:
            piece = _receive(pipe, deadline)
            samples[filled : filled + len(piece)] = piece
            filled += len(piece)
        if len(samples) != size:
            raise EOFError
        return reply, samples


def _sealed_memory() -> int:
    """Return the file descriptor of memory whose size nobody can change: reading beyond its end would kill."""
    memory = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, SHARED_BYTES)
    fcntl.fcntl(
        memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return memory


def _described(file: RangeFile) -> dict[str, Any]:
    """Return what the child is told of a file; the bytes of its pieces follow the request."""
    held = [(start, len(piece)) for start, piece in file.pieces]
    return {
        "file_size": file.size,
        "index": file.index if isinstance(file, PageFile) else None,
        "held": held,
    }


def _pieces_of(file: RangeFile) -> bytes:
    return b"".join(piece for _, piece in file.pieces)


def _samples(reply: dict[str, Any], samples: bytes | bytearray) -> NDArray[Any]:
    return np.frombuffer(samples, reply["dtype"]).reshape(reply["shape"])


def _ranges_of(asked: Any) -> list[tuple[int, int]]:
    """Return the ranges that a child asks for; raise EOFError where it asks for what no decoder of ours would."""
    try:
        ranges = [(int(offset), int(size)) for offset, size in asked]
    except (TypeError, ValueError) as error:
        raise EOFError from error
    if len(ranges) > _MOST_RANGES or any(offset < 0 or size < 1 for offset, size in ranges):
        raise EOFError
    return ranges


def _send(child: subprocess.Popen[bytes], line: bytes, *data: bytes) -> None:
    assert child.stdin is not None
    _write_all(child.stdin, memoryview(line))
    for piece in data:
        for start in range(0, len(piece), _PIECE):
            _write_all(child.stdin, memoryview(piece)[start : start + _PIECE])


def _receive(pipe: int, deadline: float) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
    piece = os.read(pipe, _PIECE)
    if not piece:
        raise EOFError
    return piece


def _write_all(pipe: Any, data: memoryview) -> None:
    written = 0
    while written < len(data):
        written += pipe.write(data[written:])
