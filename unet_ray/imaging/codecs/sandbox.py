"""Decoder in a reused child process, for untrusted files: a crash costs one image.

Decoders are C code, and archives hold damaged and hostile files. A crash, an endless loop or a
file that expands to fill all memory ends the child, never the process that started it. Requests
and replies are a line of JSON and raw bytes; nothing that comes back is executed. The child can
open no file, start no program and reach no network, as far as the kernel supports it
(`confinement`), and its environment holds no secrets. For windows of a large image and headers it
requests byte ranges, and its parent fetches them. Samples of all images but the largest come back
in shared memory. `sandbox_child.py` holds the code of the child.

The error of an image says whose fault it is. `unreadable` is the file's, and a run does not try it
again: two children in a row crashed on it, or the time limit passed while the child was computing.
`internal` is the machine's, and the next run tries again: children were killed from outside, for
instance because memory ran out, or the child was stopped or starved of CPU time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import cache
from queue import LifoQueue
from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.child_pipe import (
    INVALID_REPLY,
    PIECE,
    SHARED_BYTES,
    ChildEndedError,
    TimeUpError,
    describe_end,
    parse_image,
    read_cpu_s,
    read_reply,
    send,
)
from unet_ray.imaging.codecs.confinement import MEASURES
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.geo_tags import GeoTags
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.imaging.codecs.mask_samples import ColourTable
from unet_ray.imaging.codecs.range_file import Fetch, PlaneFile, RangeFile
from unet_ray.imaging.geometry import Box
from unet_ray.limits import MAX_ARRAY_PIXELS

TIME_LIMIT_S = 60.0
"""Time limit for one image (s): 100 times what the largest image that is decoded whole takes."""
_BUSY = 0.25
"""Smallest CPU time of a child at the time limit, as a share of the limit, for which the file is to
blame. Below it, the child was stopped or starved; a quarter of the limit is 25 times the need."""
_START_LIMIT_S = 60.0
"""Time limit for the start of the child (s), which does not count as time of an image."""
MEMORY_LIMIT_BYTES = 4 * 2**30
"""Address space of the child (bytes): several times the size of 134 megapixels in colour."""
CPU_LIMIT = 2.0
"""Limit of CPU time, as a multiple of the time limit: a decoder may use several threads."""
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""Variables that the child inherits: what Python needs to start, and nothing secret. The memory
settings of the predictor are not among them: the memory that its allocator reserves would count
against the child's limit."""
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
_LIMITS = ("SIGXCPU", "SIGXFSZ")
"""Signals that a decoder brings on itself, by a crash or beyond a limit; all others come from
outside."""
_MOST_RANGES = 2**16
"""Largest number of ranges that a child may request at once."""


_Data = bytes | Callable[[], Iterable[bytes]]
"""Data of a request: bytes, or a function that returns them piece by piece."""


def _refuse_fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    raise AssertionError(f"no file is open, but the ranges {ranges} are requested")


class Decoder:
    """Decodes one image at a time in a child process.

    The child starts with the first image, and again after each image that ends it.

    Args:
        time_limit_s: Time limit for one image (s).
        memory_limit_bytes: Address space of the child (bytes).
        measures: Measures of `confinement` that the child takes, if the kernel has them.
        module: Module that the child loads for `call`. Its function `answer(file, arguments)` gets
            the content of a file as a binary stream and returns bytes. Its function `prepare`
            loads everything that `answer` needs, before the child is confined.
    """

    def __init__(
        self,
        time_limit_s: float = TIME_LIMIT_S,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        measures: Sequence[str] = MEASURES,
        module: str = "",
    ) -> None:
        self._module = module
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._measures = measures
        self._confinement: tuple[str, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None
        self._shared: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._file: RangeFile | None = None
        self._file_error: ImageError | None = None
        self._is_open = False
        self._options: dict[str, bool] = {}

    def decode(
        self,
        data: bytes | PlaneFile,
        max_pixels: int = MAX_ARRAY_PIXELS,
        lossy_samples: bool = False,
    ) -> DecodedImage:
        """Decode an encoded image, as `decode_image` does.

        Args:
            data: Whole content of a file that holds one image, or one image of a TIFF.
            max_pixels: Largest height × width that is decoded (px).
            lossy_samples: True to round whole numbers that float32 does not hold.

        Returns:
            Same as `decode_image`.

        Raises:
            ImageError: Same as `decode_image`, or the error of reading the file; `unreadable` if
                the decoder crashed twice or exceeded the time limit, `too_large` if it exceeded
                the memory limit, `internal` if it was killed from outside, stopped or starved.
        """
        more = {"lossy_samples": lossy_samples}
        return self._parse_image(*self._decode("decode", data, max_pixels, more))

    def decode_label(
        self,
        data: bytes | PlaneFile,
        max_pixels: int = MAX_ARRAY_PIXELS,
        table: ColourTable | None = None,
    ) -> NDArray[Any]:
        """Decode a mask file to its values; see `decode_oriented_label`."""
        return self.decode_oriented_label(data, max_pixels, table)[0]

    def decode_oriented_label(
        self,
        data: bytes | PlaneFile,
        max_pixels: int = MAX_ARRAY_PIXELS,
        table: ColourTable | None = None,
    ) -> tuple[NDArray[Any], int]:
        """Decode a mask file and its orientation, as the function `decode_oriented_label` does.

        Raises:
            ImageError: Same as `decode`.
        """
        more = {} if table is None else {"table": table.to_json()}
        reply, samples = self._decode("decode_label", data, max_pixels, more)
        mask = self._parse_image(reply, samples)
        return mask.samples[:, :, 0], mask.orientation

    def _decode(
        self,
        what: str,
        data: bytes | PlaneFile,
        max_pixels: int,
        more: dict[str, Any] = {},  # noqa: B006 (it is not changed)
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        request = {"do": what, "max_pixels": max_pixels} | more
        if isinstance(data, PlaneFile):
            return self._request(request | _describe_file(data), _join_pieces(data), data.fetch)
        return self._request(request, data)

    def _parse_image(self, reply: dict[str, Any], body: bytes | bytearray) -> DecodedImage:
        """Return the image of a reply; raise ImageError if it holds none."""
        try:
            return parse_image(reply, body)
        except (ValueError, TypeError, KeyError) as error:
            self.close()
            raise ImageError("unreadable", "the decoder replied without an image") from error

    def find_images(self, file: RangeFile) -> list[ImagePlace]:
        """Return the places of all images of a TIFF, as `tiff.find_images` does.

        Raises:
            ImageError: Same as `decode`.
        """
        request, data, fetch = _make_file_request("images", file)
        _, body = self._request(request, data, fetch)
        try:
            return [ImagePlace.from_json(place, file.size) for place in json.loads(body)]
        except (ValueError, TypeError, KeyError) as error:
            self.close()
            raise ImageError("unreadable", "the decoder replied with invalid places") from error

    def read_geo_tags(self, file: RangeFile) -> GeoTags | None:
        """Read the position on Earth that the tags of a TIFF give, as `read_geo_tags` does.

        Args:
            file: TIFF file; in a `PlaneFile`, the tags of its image.

        Raises:
            ImageError: Same as `decode`.
        """
        request, data, fetch = _make_file_request("geo", file)
        _, body = self._request(request, data, fetch)
        found = json.loads(body)
        return None if found is None else GeoTags.from_json(found)

    def call(
        self, arguments: dict[str, Any], size: int, read: Callable[[], Iterable[bytes]]
    ) -> bytes | bytearray:
        """Ask the child's module a question about a file.

        Args:
            arguments: The question, as values that JSON can hold.
            size: Size of the file (bytes).
            read: Function that returns the file's content in pieces; called again if a child dies.

        Raises:
            ImageError: The error of the module, or the same as `decode`.
        """
        return self._request({"do": "call", "arguments": arguments, "size": size}, read)[1]

    @property
    def confinement(self) -> tuple[str, ...]:
        """Measures of `confinement` that are active in the child; it starts if it has not."""
        with self._lock:
            self._running()
            return self._confinement

    def open(
        self, file: RangeFile, opaque: bool = False, lossy_samples: bool = False
    ) -> tuple[int, int]:
        """Open a large image for windows, in place of the one that was open.

        Args:
            file: The file.
            opaque: True if the alpha of the whole image is known to leave out no pixel; False:
                windows return counts of their alpha, whose sum decides (`AlphaCounts`).
            lossy_samples: True to round whole numbers that float32 does not hold.

        Returns:
            Height and width of the image (px).

        Raises:
            ImageError: Same as `decode`.
        """
        self._file = None
        self._file_error = None
        self._options = {"opaque": opaque, "lossy_samples": lossy_samples}
        reply, _ = self._request(*self._make_open_request(file))
        self._file = file
        self._is_open = True
        return int(reply["height"]), int(reply["width"])

    def _make_open_request(self, file: RangeFile) -> tuple[dict[str, Any], bytes, Fetch]:
        request, data, fetch = _make_file_request("open", file)
        return request | self._options, data, fetch

    def window(self, box: Box, core: Box | None = None) -> DecodedImage:
        """Return a window of the open image; raise ImageError as `decode` does.

        An error that ended the child is raised for all further windows of the image.

        Args:
            box: Window, which lies inside the image.
            core: Part of it, in the coordinates of the image, whose alpha is counted; None: all.
        """
        return self._ask_window({"box": astuple(box), "core": core and astuple(core)})

    def label_window(self, box: Box) -> NDArray[Any]:
        """Return a window of the open mask, HW, as `WindowReader.read_label` does.

        Raises:
            ImageError: Same as `window`; `unsupported` for a mask that must be decoded whole.
        """
        return self._ask_window({"box": astuple(box), "label": True}).samples[:, :, 0]

    def _ask_window(self, wanted: dict[str, Any]) -> DecodedImage:
        assert self._file is not None
        if self._file_error:
            raise self._file_error
        request = {"do": "window", "core": None, "label": False} | wanted
        try:
            return self._parse_image(*self._request(request, b"", self._file.fetch))
        except ImageError as error:
            if self._child is None:
                self._file_error = error
            raise

    def _request(
        self, request: dict[str, Any], data: _Data = b"", fetch: Fetch = _refuse_fetch
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        with self._lock:
            ends: list[str] = []
            while len(ends) < 2:
                child = self._running()
                try:
                    if request["do"] == "window" and not self._is_open:
                        assert self._file is not None
                        self._ask(child, *self._make_open_request(self._file))
                        self._is_open = True
                    return self._ask(child, request, data, fetch)
                except ImageError:
                    raise
                except ChildEndedError as error:
                    ends.append(str(error) or describe_end(child))
                    self.close()
                except BaseException:
                    self.close()  # a half-read reply would be taken for the next one
                    raise
            how = ends[0] if ends[0] == ends[1] else " and ".join(ends)
            if all(end in _CRASHES + _LIMITS or not end.startswith("SIG") for end in ends):
                raise ImageError("unreadable", f"the decoder crashed twice ({how})")
            raise ImageError("internal", f"the decoder was killed from outside twice ({how})")

    def close(self) -> None:
        """End the child; the next image starts a new one."""
        child, shared = self._child, self._shared
        self._child = self._shared = None
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
            settings = (
                self._time_limit_s,
                self._memory_limit_bytes,
                shared,
                ",".join(self._measures),
                self._module,
            )
            self._is_open = False
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__name__}_child", *map(str, settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(shared,),
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            os.close(shared)
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            for pipe in (self._child.stdin, self._child.stdout):
                # pipes as large as the system allows, so that pixels take fewer turns
                with contextlib.suppress(OSError):
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIECE)
            # a child that does not read must not hold up this process
            os.set_blocking(self._child.stdin.fileno(), False)
            try:
                # the child's first reply says that it is ready
                reply, _ = self._read(self._child, time.monotonic() + _START_LIMIT_S)
                self._confinement = tuple(map(str, reply.get("confinement", ())))
            except TimeUpError:
                self.close()  # a late reply would be taken for the reply to an image
                raise TimeoutError(f"the decoder did not start in {_START_LIMIT_S:g} s") from None
            except ChildEndedError as error:
                end = str(error) or describe_end(self._child)
                self.close()
                raise ImageError("internal", f"the decoder ended at its start ({end})") from None
            except BaseException:
                self.close()
                raise
        return self._child

    def _ask(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], data: _Data, fetch: Fetch
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        """Return the child's reply to a request, and its samples.

        Raises:
            ImageError: The child's own error, that of the store, or the time limit.
            ChildEndedError: Same as `read_reply`.
        """
        cpu_before_s = read_cpu_s(child)
        try:
            if isinstance(data, bytes):
                request = request | {"size": len(data)}
            return self._exchange(child, request, data, fetch)
        except TimeUpError:
            cpu_s = read_cpu_s(child) - cpu_before_s
            limit_s = self._time_limit_s
            self.close()
            if cpu_s >= _BUSY * limit_s:
                message = f"decoding took longer than {limit_s:g} s"
                raise ImageError("unreadable", message) from None
            message = (
                f"the decoder was stopped or starved: it had {cpu_s:.2f} s of CPU time in "
                f"{limit_s:g} s"
            )
            raise ImageError("internal", message) from None

    def _exchange(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], data: _Data, fetch: Fetch
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        deadline = time.monotonic() + self._time_limit_s
        # the child reads the whole request before it decodes
        head = json.dumps(request).encode() + b"\n"
        if isinstance(data, bytes):
            send(child, deadline, head, data)
        else:
            send(child, deadline, head)
            for piece in data():
                send(child, deadline, piece)
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
                limit = self._memory_limit_bytes
                message = f"decoding needs {size} bytes of the file at once; the limit is {limit}"
                raise ImageError("too_large", message)
            started = time.monotonic()
            try:
                pieces = fetch(ranges)
            except BaseException:
                self.close()  # the child would wait for bytes that never come
                raise
            deadline += time.monotonic() - started  # the store's time is not the decoder's
            sizes = json.dumps({"sizes": [*map(len, pieces)]}).encode() + b"\n"
            send(child, deadline, sizes, *pieces)

    def _read(
        self, child: subprocess.Popen[bytes], deadline: float
    ) -> tuple[dict[str, Any], bytes | bytearray]:
        assert self._shared is not None
        return read_reply(child, deadline, self._shared)


class DecoderPool:
    """Decoders that threads share, one thread at a time each; the `with` block ends them.

    Args:
        size: Largest number of child processes.
        time_limit_s: Time limit for one request (s).
    """

    def __init__(self, size: int, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._all = [Decoder(time_limit_s) for _ in range(size)]
        # the decoder that was returned last is borrowed first, so that few children start
        self._free: LifoQueue[Decoder] = LifoQueue()
        for decoder in self._all:
            self._free.put(decoder)

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        for decoder in self._all:
            decoder.close()

    def find_images(self, file: RangeFile) -> list[ImagePlace]:
        """Return the places of all images of a TIFF; see `Decoder.find_images`."""
        decoder = self._free.get()
        try:
            return decoder.find_images(file)
        finally:
            self._free.put(decoder)

    def measure(self, file: RangeFile) -> tuple[int, int]:
        """Return the height and width of an image (px) from its header; see `Decoder.open`."""
        decoder = self._free.get()
        try:
            return decoder.open(file)
        finally:
            self._free.put(decoder)

    def read_geo_tags(self, file: RangeFile) -> GeoTags | None:
        """Read the position of an image on Earth; see `Decoder.read_geo_tags`."""
        decoder = self._free.get()
        try:
            return decoder.read_geo_tags(file)
        finally:
            self._free.put(decoder)


@cache
def process_decoder() -> Decoder:
    """Return the decoder of this process; its child ends with the process."""
    return Decoder()


def _create_sealed_memory() -> int:
    """Return the file descriptor of shared memory whose size is sealed.

    If the child could shrink it, reading beyond its end would kill this process.
    """
    memory = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, SHARED_BYTES)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    return memory


def _describe_file(file: RangeFile) -> dict[str, Any]:
    """Describe a file for a request; the bytes of its pieces follow the request."""
    held = [(start, len(piece)) for start, piece in file.pieces]
    place = file.place.to_json() if isinstance(file, PlaneFile) else None
    return {"file_size": file.size, "place": place, "held": held}


def _make_file_request(what: str, file: RangeFile) -> tuple[dict[str, Any], bytes, Fetch]:
    return {"do": what} | _describe_file(file), _join_pieces(file), file.fetch


def _join_pieces(file: RangeFile) -> bytes:
    return b"".join(piece for _, piece in file.pieces)


def _parse_ranges(asked: Iterable[Any]) -> list[tuple[int, int]]:
    """Return the ranges that a child requests.

    Args:
        asked: Ranges from the child, which may be anything.

    Raises:
        ChildEndedError: No decoder would request them.
    """
    try:
        ranges = [(int(offset), int(size)) for offset, size in asked]
    except (TypeError, ValueError) as error:
        raise ChildEndedError(INVALID_REPLY) from error
    if len(ranges) > _MOST_RANGES:
        raise ChildEndedError(INVALID_REPLY)
    for offset, size in ranges:
        if offset < 0 or size < 1:
            raise ChildEndedError(INVALID_REPLY)
    return ranges
