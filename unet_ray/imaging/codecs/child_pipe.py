"""The pipes to a decoder's child: requests, replies with deadlines, and how a child ended.

Nothing that comes back is trusted: a reply is a line of JSON of bounded length, then as many bytes
as the line states, within limits. A child that writes anything else counts as ended.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import time
from typing import Any

import numpy as np

from unet_ray.imaging.codecs.alpha import AlphaCounts
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.image_place import clean_names
from unet_ray.imaging.codecs.pixel_size import PixelSize

_EXIT_LIMIT_S = 5.0
"""Time limit for the end of a child that has closed its output (s)."""
_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")
INVALID_REPLY = "an invalid reply"
PIECE = 2**20
"""Largest piece that is read from a pipe at once, and the size asked for the pipes (bytes)."""
_LONGEST_LINE = 2**22
"""Longest line of a reply (bytes): the largest number of ranges takes 3 MB."""
_LARGEST_ANSWER = 2**31
"""Largest answer to a call (bytes)."""
_LONGEST_JSON = 2**26
"""Longest JSON of a reply (bytes): places of the largest number of pages take half of it."""
SHARED_BYTES = 2**25
"""Largest image that comes back in shared memory (bytes); pipes would copy it twice, in pieces."""


_MOST_NOTES = 8
"""Largest number of notes on an image."""
_LONGEST_NOTE = 200
"""Longest note (characters)."""


class TimeUpError(Exception):
    """The child did not read a request, or did not complete its reply, by the deadline."""


class ChildEndedError(Exception):
    """The child ended (no message), or wrote something that is not a reply."""


def read_cpu_s(child: subprocess.Popen[bytes]) -> float:
    """Return the CPU time that a child, which may be a zombie by now, has used (s)."""
    with open(f"/proc/{child.pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # the name before it may hold spaces
    user = int(fields[11])
    system = int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def read_reply(
    child: subprocess.Popen[bytes], deadline: float, shared: mmap.mmap
) -> tuple[dict[str, Any], bytes | bytearray]:
    """Return the child's next reply: its line and the bytes that follow.

    Args:
        child: The child.
        deadline: Time on the monotonic clock by which the reply must be complete (s).
        shared: Memory in which the child may put samples.

    Raises:
        TimeUpError: The reply was not complete by the deadline.
        ChildEndedError: The child ended, or wrote something that is not a reply.
    """
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    received = bytearray()
    while b"\n" not in received:
        if len(received) > _LONGEST_LINE:
            raise ChildEndedError(INVALID_REPLY)
        received += _receive(pipe, deadline)
    line, _, rest = received.partition(b"\n")
    try:
        reply = json.loads(line)
        size, is_shared = _measure_body(reply)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ChildEndedError(INVALID_REPLY) from error
    if is_shared:
        return reply, shared[:size]  # a copy, since the next image overwrites it
    samples = bytearray(size)
    samples[: len(rest)] = rest
    filled = len(rest)
    while filled < size:
        piece = _receive(pipe, deadline)
        samples[filled : filled + len(piece)] = piece
        filled += len(piece)
    if len(samples) != size:
        raise ChildEndedError(INVALID_REPLY)
    return reply, samples


def _measure_body(reply: dict[str, Any]) -> tuple[int, bool]:
    """Return the size of what follows a reply (bytes), and whether it is in the shared memory.

    Raises:
        ValueError: Such a reply is not valid; TypeError and KeyError too.
    """
    if "answer_bytes" in reply:
        if not 0 <= reply["answer_bytes"] <= _LARGEST_ANSWER:
            raise ValueError(reply)
        return int(reply["answer_bytes"]), False
    if "json_bytes" in reply:
        if not 0 <= reply["json_bytes"] <= _LONGEST_JSON:
            raise ValueError(reply)
        return int(reply["json_bytes"]), False
    if "dtype" not in reply:
        return 0, False
    dtype, shape = reply["dtype"], reply["shape"]
    if dtype not in _DTYPES or len(shape) != 3 or min(shape) < 1:
        raise ValueError(reply)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if reply["has_valid"]:
        size += -(-int(np.prod(shape[:2])) // 8)
    is_shared = bool(reply["shared"])
    if size < 0 or (is_shared and size > SHARED_BYTES):
        raise ValueError(reply)
    return size, is_shared


def describe_image(image: DecodedImage) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the reply that describes an image, and the buffers that follow it."""
    buffers = [image.samples.data.cast("B")]
    if image.valid is not None:
        buffers.append(np.packbits(image.valid).data)
    size = sum(buffer.nbytes for buffer in buffers)
    reply = {
        "shape": image.samples.shape,
        "dtype": str(image.samples.dtype),
        "has_valid": image.valid is not None,
        "shared": size <= SHARED_BYTES,
        "channels": image.channels,
        "pixel_size": image.pixel_size and image.pixel_size.to_json(),
        "orientation": image.orientation,
        "notes": image.notes,
        "alpha": image.alpha and vars(image.alpha),
    }
    return reply, buffers


def parse_image(reply: dict[str, Any], body: bytes | bytearray) -> DecodedImage:
    """Return the image that `describe_image` describes.

    Raises:
        ValueError: The reply describes no image; TypeError and KeyError too.
    """
    shape = tuple(map(int, reply["shape"]))
    dtype = np.dtype(reply["dtype"])
    count = int(np.prod(shape))
    valid = None
    if reply["has_valid"]:
        bits = np.frombuffer(body, np.uint8, offset=count * dtype.itemsize)
        height, width = shape[:2]
        valid = np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)
    return DecodedImage(
        samples=np.frombuffer(body, dtype, count).reshape(shape),
        valid=valid,
        channels=clean_names(reply["channels"]),
        pixel_size=PixelSize.from_json(reply["pixel_size"]),
        orientation=int(reply["orientation"]),
        notes=tuple(str(note)[:_LONGEST_NOTE] for note in reply["notes"][:_MOST_NOTES]),
        alpha=AlphaCounts.from_json(reply["alpha"]),
    )


def describe_end(child: subprocess.Popen[bytes]) -> str:
    """Return what ended a child whose pipe has ended: a signal's name or an exit code."""
    try:
        status = child.wait(_EXIT_LIMIT_S)
    except subprocess.TimeoutExpired:
        return "a closed pipe"
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"


def send(child: subprocess.Popen[bytes], deadline: float, *pieces: bytes) -> None:
    """Write to the child.

    Raises:
        TimeUpError: The child did not read all of it by the deadline.
        ChildEndedError: The child ended.
    """
    assert child.stdin is not None
    pipe = child.stdin.fileno()
    if sum(map(len, pieces)) <= PIECE:
        pieces = (b"".join(pieces),)  # a child that waits is woken once, not by each small piece
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(pipe, rest) :]
            except BlockingIOError:
                _wait(pipe, select.POLLOUT, deadline)
            except BrokenPipeError:
                raise ChildEndedError from None


def _receive(pipe: int, deadline: float) -> bytes:
    _wait(pipe, select.POLLIN, deadline)
    piece = os.read(pipe, PIECE)
    if not piece:
        raise ChildEndedError
    return piece


def _wait(pipe: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written; raise TimeUpError at the deadline."""
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeUpError
