"""Child process of `sandbox.Decoder`: it decodes the requested images within its limits.

All decoders are loaded before the limits apply. Afterwards the process can open no file, start no
program and reach no network (`confinement`).
"""

from __future__ import annotations

import codecs
import json
import mmap
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from io import BufferedReader, RawIOBase
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import pyvips
import tifffile
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.child_pipe import SHARED_BYTES, describe_image
from unet_ray.imaging.codecs.confinement import confine, limit_cpu_time, limit_resources
from unet_ray.imaging.codecs.decode import decode_image, decode_oriented_label
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.geo_tags import read_geo_tags
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.imaging.codecs.mask_samples import ColourTable
from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.raster import mapped_errors
from unet_ray.imaging.codecs.sandbox import CPU_LIMIT
from unet_ray.imaging.codecs.tiff import find_images
from unet_ray.imaging.codecs.window_reader import WindowReader
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def serve(
    requests: BinaryIO,
    replies: BinaryIO,
    time_limit_s: float,
    memory_limit_bytes: int,
    shared: mmap.mmap,
    measures: Sequence[str],
    module: str = "",
) -> None:
    """Answer requests until there are no more.

    Args:
        requests: Stream of requests, a line of JSON and raw bytes each.
        replies: Stream of replies, of the same form.
        time_limit_s: Time limit for one image (s).
        memory_limit_bytes: Limit of the address space of this process (bytes).
        shared: Shared memory for the samples of all images but the largest.
        measures: Measures of confinement to take.
        module: Module whose function `answer` answers calls, and `prepare` loads all that it needs.
    """
    _load_decoders()
    answer = None
    if module:
        loaded = import_module(module)
        loaded.prepare()
        answer = loaded.answer
    limit_resources(memory_limit_bytes)
    server = _ImageServer(requests, replies, time_limit_s, shared)
    _reply(replies, {"confinement": confine(measures)})
    for line in requests:
        request = json.loads(line)
        server.set_alarm()
        limit_cpu_time(CPU_LIMIT * time_limit_s)
        content = _Content(requests, request["size"])
        failure = None
        try:
            with mapped_errors():
                if request["do"] == "call" and answer:
                    found = answer(BufferedReader(content, _PIECE), request["arguments"])
                    content.skip()
                    _reply(replies, {"answer_bytes": len(found)}, found)
                else:
                    server.answer(request, content.readall())
        except ImageError as error:
            if error.error_type == "out_of_memory":
                limit_gib = memory_limit_bytes / 2**30
                error = ImageError(
                    "too_large", f"decoding needs more than {limit_gib:.1f} GiB of memory"
                )
            failure = {"error_type": error.error_type, "message": error.message}
        if failure:  # not before the error is gone: it may hold what filled the memory
            content.skip()  # before the reply: the parent may still be sending
            _reply(replies, failure)
        signal.alarm(0)


_PIECE = 2**20
"""Bytes of a stream that are read at once."""
_SPARE = bytearray(_PIECE)
"""Buffer for bytes that are read and discarded."""
_ENCODINGS = ("utf-8-sig", "ascii", "latin-1", "cp1252", "cp437", "mac-roman", "utf-16", "utf-32")
"""Text encodings in images besides UTF-8. Python loads each from a file when it is first used."""


def _load_decoders() -> None:
    """Load all that decoding an image may need: libraries load some parts only on first use."""
    Image.init()
    for name in _ENCODINGS:
        codecs.lookup(name)
    for code in (*tifffile.COMPRESSION, *tifffile.PREDICTOR):
        for table in (tifffile.TIFF.DECOMPRESSORS, tifffile.TIFF.UNPREDICTORS):
            with suppress(KeyError):
                table[code]
    black = pyvips.Image.black(8, 8)
    for encoded in (black.pngsave_buffer(), black.jpegsave_buffer()):
        pyvips.Image.new_from_buffer(encoded, "").avg()


class _Content(RawIOBase):
    """The bytes that follow a request, as a stream."""

    def __init__(self, requests: BinaryIO, size: int) -> None:
        self._requests = requests
        self._rest = size

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some of the bytes; 0 at their end."""
        view = memoryview(buffer)
        size = min(len(view), self._rest)
        found = self._requests.readinto(view[:size]) if size else 0  # type: ignore[attr-defined]
        self._rest -= found
        return int(found)

    def readall(self) -> bytes:
        """Return all bytes that are left."""
        size, self._rest = self._rest, 0
        return self._requests.read(size)

    def skip(self) -> None:
        """Read and discard the bytes that are left."""
        while self.readinto(_SPARE):  # there may be no memory for more
            pass


class _ImageServer:
    """Decodes one image at a time, and windows of the image that is open."""

    def __init__(
        self, requests: BinaryIO, replies: BinaryIO, time_limit_s: float, shared: mmap.mmap
    ) -> None:
        self._requests = requests
        self._replies = replies
        self._time_limit_s = time_limit_s
        self._shared = shared
        self._windows: WindowReader | None = None

    def set_alarm(self) -> None:
        """Make the system end this process if a request takes too long.

        The parent normally ends it, but may be dead.
        """
        signal.alarm(int(self._time_limit_s) + 2)

    def answer(self, request: dict[str, Any], data: bytes) -> None:
        """Carry out a request and reply; raise ImageError, or any exception of a decoder."""
        if request["do"] == "open":
            self._windows = None
            file = self._make_file(request, data)
            self._windows = open_windows(file, request["opaque"], request["lossy_samples"])
            _reply(self._replies, {"height": self._windows.height, "width": self._windows.width})
            return
        if request["do"] == "images":
            places = find_images(self._make_file(request, data))
            _reply_json(self._replies, [place.to_json() for place in places])
            return
        if request["do"] == "geo":
            tags = read_geo_tags(self._make_file(request, data))
            _reply_json(self._replies, tags and vars(tags))
            return
        reply, buffers = describe_image(self._decode(request, data))
        if reply["shared"]:
            at = 0
            for buffer in buffers:
                self._shared[at : at + buffer.nbytes] = buffer
                at += buffer.nbytes
            buffers = []
        _reply(self._replies, reply, *buffers)

    def _decode(self, request: dict[str, Any], data: bytes) -> DecodedImage:
        if request["do"] == "window":
            assert self._windows is not None
            core = request["core"] and Box(*request["core"])
            if request["label"]:
                mask = self._windows.read_label(Box(*request["box"]))
                return DecodedImage(np.ascontiguousarray(mask)[:, :, None])
            window = self._windows.read(Box(*request["box"]), core)
            return replace(window, samples=np.ascontiguousarray(window.samples))
        source = cast(PlaneFile, self._make_file(request, data)) if "held" in request else data
        if request["do"] == "decode_label":
            found = request.get("table")
            table = None if found is None else ColourTable.from_json(found)
            mask, orientation = decode_oriented_label(source, request["max_pixels"], table)
            return DecodedImage(mask[:, :, None], orientation=orientation)
        return decode_image(source, request["max_pixels"], request["lossy_samples"])

    def _make_file(self, request: dict[str, Any], data: bytes) -> RangeFile:
        """Return the file that a request describes; `data` holds the bytes of its pieces."""
        ends = accumulate(size for _, size in request["held"])
        pieces = [
            (start, data[end - size : end])
            for (start, size), end in zip(request["held"], ends, strict=True)
        ]
        if request["place"] is None:
            return RangeFile(self._fetch, request["file_size"], pieces)
        place = ImagePlace.from_json(request["place"], request["file_size"])
        return PlaneFile(self._fetch, pieces, place)

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        # the store's time is not the decoder's; if the parent that fetches dies, the pipe ends
        signal.alarm(0)
        _reply(self._replies, {"fetch": ranges})
        found = json.loads(self._requests.readline())
        pieces = [self._requests.read(size) for size in found["sizes"]]
        self.set_alarm()
        return pieces


def _reply(replies: BinaryIO, line: dict[str, Any], *buffers: memoryview | bytes) -> None:
    replies.write(json.dumps(line).encode() + b"\n")
    for buffer in buffers:
        replies.write(buffer)
    replies.flush()


def _reply_json(replies: BinaryIO, value: object) -> None:
    """Reply with a value that may be too long for a line."""
    body = json.dumps(value).encode()
    _reply(replies, {"json_bytes": len(body)}, body)


def main() -> None:
    """Serve the process that started this one; output that decoders print is discarded."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    time_limit_s, memory_limit_bytes, shared, measures, module = sys.argv[1:]
    with mmap.mmap(int(shared), SHARED_BYTES) as memory:
        serve(
            requests=sys.stdin.buffer,
            replies=replies,
            time_limit_s=float(time_limit_s),
            memory_limit_bytes=int(memory_limit_bytes),
            shared=memory,
            measures=measures.split(","),
            module=module,
        )


if __name__ == "__main__":
    main()
