"""Decoder in a reused child process, for untrusted files: a crash costs one image.

Decoders are C code, and archives hold damaged and hostile files. A crash, an endless loop or a
file that expands to fill all memory ends the child, never the process that started it. Requests
and replies are a line of JSON and raw bytes; nothing that comes back is executed. The child opens
no file: for windows of a large image it requests byte ranges, and its parent fetches them. Samples
of all images but the largest come back in shared memory. `sandbox_child.py` holds the code of the
child.
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
"""Time limit for one image (s): 100 times what the largest image that is decoded whole takes."""
_START_LIMIT_S = 60.0
"""Time limit for the start of the child (s), which does not count as time of an image."""
MEMORY_LIMIT_BYTES = 4 * 2**30
"""Address space of the child (bytes): several times the size of 134 megapixels in colour."""
_DTYPES = ("uint8", "uint16", "float32")
_PIECE = 2**20
"""Largest piece that goes through a pipe at once (bytes)."""
_MOST_RANGES = 2**16
"""Largest number of ranges that a child may request at once."""
SHARED_BYTES = 2**25
"""Largest image that comes back in shared memory (bytes); pipes would copy it twice, in pieces."""


def _refuse_fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    raise AssertionError(f"no file is open, but the ranges {ranges} are requested")


class Decoder:
    """Decodes one image at a time in a child process.

    The child starts with the first image, and again after each image that ends it.

    Args:
        time_limit_s: Time limit for one image (s).
        memory_limit_bytes: Address space of the child (bytes).
    """

    def __init__(
        self, time_limit_s: float = TIME_LIMIT_S, memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    ) -> None:
        self._time_limit_s, self._memory_limit_bytes = time_limit_s, memory_limit_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._shared: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._fetch: Fetch = _refuse_fetch
        self._is_open = False

    def decode(self, data: bytes | PageFile, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
        """Decode an encoded image, as `decode_image` does.

        Args:
            data: Whole content of a file that holds one image, or a page of a TIFF stack.
            max_pixels: Largest height × width that is decoded (px).

        Returns:
            Same as `decode_image`.

        Raises:
            ImageError: Same as `decode_image`, or the error of reading the file; `unreadable` if
                the decoder crashed or exceeded the time limit, `too_large` if it exceeded the
                memory limit.
        """
        request = {"do": "decode", "max_pixels": max_pixels}
        if isinstance(data, PageFile):
            return _make_array(
                *self._request(request | _describe_file(data), _join_pieces(data), data.fetch)
            )
        return _make_array(*self._request(request, data))

    def open(self, file: RangeFile) -> tuple[int, int]:
        """Open a large image for windows, in place of the one that was open.

        Returns:
            Height and width of the image (px).

        Raises:
            ImageError: Same as `decode`.
        """
        self._fetch = file.fetch
        reply, _ = self._request(
            {"do": "open"} | _describe_file(file), _join_pieces(file), file.fetch
        )
        self._is_open = True
        return int(reply["height"]), int(reply["width"])

    def window(self, box: Box) -> NDArray[Any]:
        """Return a window (HWC) of the open image; raise ImageError as `decode` does."""
        request = {"do": "window", "box": [box.top, box.left, box.bottom, box.right]}
        return _make_array(*self._request(request, fetch=self._fetch))

    def _request(
        self, request: dict[str, Any], data: bytes = b"", fetch: Fetch = _refuse_fetch
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
                self.close()  # a half-read reply would be taken for the next one
                raise

    def close(self) -> None:
        """End the child; the next image starts a new one."""
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
            shared = _create_sealed_memory()
            self._shared = mmap.mmap(shared, SHARED_BYTES)
            settings = self._time_limit_s, self._memory_limit_bytes, shared
            self._is_open = False
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__name__}_child", *map(str, settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(shared,),
                # without the predictor's memory settings: the memory that its allocator reserves
                # would count against the child's limit
                env={
                    name: value
                    for name, value in os.environ.items()
                    if name not in ("LD_PRELOAD", "MALLOC_CONF")
                },
            )
            os.close(shared)
            for pipe in (self._child.stdin, self._child.stdout):
                # pipes as large as the system allows, so that pixels take fewer turns
                with contextlib.suppress(OSError):
                    fcntl.fcntl(cast(Any, pipe).fileno(), fcntl.F_SETPIPE_SZ, _PIECE)
            try:
                # the child's first reply says that it is ready
                self._read(self._child, time.monotonic() + _START_LIMIT_S)
            except TimeoutError:
                self.close()  # a late reply would be taken for the reply to an image
                raise TimeoutError(f"the decoder did not start in {_START_LIMIT_S:g} s") from None
            except BaseException:
                self.close()
                raise
        return self._child

    def _ask(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], data: bytes, fetch: Fetch
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        deadline = time.monotonic() + self._time_limit_s
        # the child reads the whole request before it decodes
        _send(child, json.dumps(request).encode() + b"\n", data)
        while True:
            reply, samples = self._read(child, deadline)
            if "error_type" in reply:
                raise ImageError(str(reply["error_type"]), str(reply["message"]))
            if "fetch" not in reply:
                return reply, samples
            ranges = _parse_ranges(reply["fetch"])
            size = sum(length for _, length in ranges)
            if size > self._memory_limit_bytes:
                self.close()
                raise ImageError("too_large", f"decoding it needs {size} bytes of the file at once")
            started = time.monotonic()
            try:
                pieces = fetch(ranges)
            except BaseException:
                self.close()  # the child would wait for bytes that never come
                raise
            deadline += time.monotonic() - started  # the store's time is not the decoder's
            _send(child, json.dumps({"sizes": [*map(len, pieces)]}).encode() + b"\n", *pieces)

    def _read(
        self, child: subprocess.Popen[bytes], deadline: float
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        """Return the child's next reply: its line and the bytes that follow.

        Raises:
            TimeoutError: The reply was not complete by the deadline.
            EOFError: The child ended, or wrote something that is not a reply.
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
            return reply, self._shared[:size]  # a copy, since the next image overwrites it
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


def _create_sealed_memory() -> int:
    """Return the file descriptor of shared memory whose size is sealed.

    If the child could shrink it, reading beyond its end would kill this process.
    """
    memory = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, SHARED_BYTES)
    fcntl.fcntl(
        memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return memory


def _describe_file(file: RangeFile) -> dict[str, Any]:
    """Describe a file for a request; the bytes of its pieces follow the request."""
    held = [(start, len(piece)) for start, piece in file.pieces]
    return {
        "file_size": file.size,
        "index": file.index if isinstance(file, PageFile) else None,
        "held": held,
    }


def _join_pieces(file: RangeFile) -> bytes:
    return b"".join(piece for _, piece in file.pieces)


def _make_array(reply: dict[str, Any], samples: bytes | bytearray) -> NDArray[Any]:
    return np.frombuffer(samples, reply["dtype"]).reshape(reply["shape"])


def _parse_ranges(asked: Any) -> list[tuple[int, int]]:
    """Return the ranges that a child requests; raise EOFError if no decoder would request them."""
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
