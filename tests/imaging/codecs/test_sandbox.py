"""The decoder's child process returns what decoding here returns, and may be killed."""

from __future__ import annotations

import itertools
import json
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest

from tests.builders import encode_pillow, make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs import child_pipe, sandbox
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def random_image(seed: int, side: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side, side + 7, 3), dtype=np.uint8)


def test_the_child_returns_what_decoding_here_returns(decoder: Decoder) -> None:
    """Files are small and large (beyond the pipe's buffer), and come from several threads."""
    files = [encode_pillow(random_image(seed, side)) for seed, side in enumerate((1, 50, 1200, 3))]
    with ThreadPoolExecutor(4) as pool:
        for data, image in zip(files, pool.map(decoder.decode, files), strict=True):
            assert np.array_equal(image.samples, decode_image(data).samples)
            assert image.samples.dtype == np.uint8


def test_masks_have_the_values_that_decoding_here_gives(decoder: Decoder) -> None:
    for mask in (random_image(0)[:, :, 0], np.arange(60, dtype=np.uint16).reshape(6, 10) * 999):
        found = decoder.decode_label(encode_pillow(mask))
        assert np.array_equal(found, mask)
        assert found.dtype == mask.dtype


@pytest.mark.parametrize("shape", [[0, 4, 3], [-2, -2, 3], [4, 4], ["a", 1, 1]])
def test_a_reply_without_pixels_ends_the_child(decoder: Decoder, shape: list[object]) -> None:
    reply = json.dumps({"shape": shape, "dtype": "uint8", "shared": True}).encode() + b"\n"
    decoder._running()
    received = itertools.cycle([reply, b'{"ready": true}\n'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_pipe, "_receive", lambda *_: next(received))
        with pytest.raises(ImageError, match=r"unreadable: .* crashed twice \(an invalid reply\)"):
            decoder.decode(b"data")


def test_a_file_that_cannot_be_read_keeps_its_error_and_the_child(decoder: Decoder) -> None:
    decoder.decode(encode_pillow(random_image(0)))
    child = decoder._child
    with pytest.raises(ImageError) as here:
        decode_image(b"no image")
    with pytest.raises(ImageError) as there:
        decoder.decode(b"no image")
    assert (here.value.error_type, here.value.message) == (
        there.value.error_type,
        there.value.message,
    )
    assert decoder._child is child


def send_signals(patch: pytest.MonkeyPatch, *signals: signal.Signals) -> None:
    """Send a signal to the child before each message to it, as long as there are signals."""
    rest, send = iter(signals), sandbox.send

    def send_after_signal(child: Any, deadline: float, *pieces: bytes) -> None:
        if number := next(rest, None):
            child.send_signal(number)
        send(child, deadline, *pieces)

    patch.setattr(sandbox, "send", send_after_signal)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_child_that_is_ended_once_costs_no_image(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Whatever ended it, the fault is the file's only if it happens again in a fresh child."""
    send_signals(monkeypatch, number)
    image = random_image(1)
    assert np.array_equal(decoder.decode(encode_pillow(image)).samples, image)


def test_a_child_that_is_killed_while_it_decodes_costs_no_image(decoder: Decoder) -> None:
    """A large file keeps the child busy while it is killed, as by a pod that is out of memory."""
    child = decoder._running()
    threading.Timer(0.2, child.kill).start()
    assert decoder.decode(bomb(11_000)).samples.shape == (11_000, 11_000, 3)
    assert decoder._child is not child


@pytest.mark.parametrize(
    ("signals", "error"),
    [
        ("KILL KILL", r"internal: the decoder was killed from outside twice \(SIGKILL\)"),
        ("TERM KILL", r"internal: .* twice \(SIGTERM and SIGKILL\)"),
        ("SEGV KILL", r"internal: .* twice \(SIGSEGV and SIGKILL\)"),
        ("KILL SEGV", r"internal: .* twice \(SIGKILL and SIGSEGV\)"),
        ("SEGV SEGV", r"unreadable: the decoder crashed twice \(SIGSEGV\)"),
        ("ABRT BUS", r"unreadable: the decoder crashed twice \(SIGABRT and SIGBUS\)"),
    ],
)
def test_only_two_crashes_are_the_fault_of_the_file(
    decoder: Decoder, signals: str, error: str
) -> None:
    good = encode_pillow(random_image(1))
    with pytest.MonkeyPatch.context() as patch:
        send_signals(patch, *(signal.Signals[f"SIG{name}"] for name in signals.split()))
        with pytest.raises(ImageError, match=error):
            decoder.decode(good)
    assert decoder.decode(good).samples.shape == (50, 57, 3)


def test_a_child_that_exits_on_a_file_has_crashed(decoder: Decoder) -> None:
    """A request that is not JSON ends the child with a traceback, both times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "dumps", lambda _: "{")
        with pytest.raises(ImageError, match=r"unreadable: .* crashed twice \(exit code 1\)"):
            decoder.decode(b"")
    assert decoder.decode(encode_pillow(random_image(1))).samples.shape == (50, 57, 3)


@pytest.mark.parametrize("side", [50, 1200])
def test_a_child_that_is_stopped_is_not_the_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """The larger file does not fit the pipe, so that a stopped child does not take all of it."""
    decoder, before = Decoder(time_limit_s=1), set(psutil.Process().children())
    good = encode_pillow(random_image(1, side))
    assert (len(good) > 2**20) == (side == 1200)
    send_signals(monkeypatch, signal.SIGSTOP)
    with pytest.raises(
        ImageError, match=r"internal: the decoder was stopped or starved: it had 0\.\d\d s of CPU"
    ):
        decoder.decode(good)
    assert set(psutil.Process().children()) == before
    assert decoder.decode(good).samples.shape == (side, side + 7, 3)
    decoder.close()


def test_a_decoder_that_computes_for_too_long_is_ended() -> None:
    """The file takes 6 s of CPU time; in 3 s a busy machine grants the quarter that is blamed."""
    decoder = Decoder(time_limit_s=3)
    before = set(psutil.Process().children())
    started = time.monotonic()
    with pytest.raises(ImageError, match="unreadable: decoding took longer than 3 s"):
        decoder.decode(bomb(11_500, colour=6, depth=16))
    assert time.monotonic() - started < 20
    assert set(psutil.Process().children()) == before


def test_a_file_that_eats_memory_is_an_error_of_the_file() -> None:
    decoder = Decoder(memory_limit_bytes=3 * 2**29)
    with pytest.raises(ImageError, match="too_large: decoding needs more than 1.5 GiB"):
        decoder.decode(bomb(11_500, colour=6, depth=16))
    assert decoder.decode(encode_pillow(random_image(2))).samples.shape == (50, 57, 3)
    decoder.close()


def bomb(side: int, colour: int = 2, depth: int = 8) -> bytes:
    """Return a PNG of zeros, whose bytes are a thousandth of its pixels."""
    samples = {2: 3, 6: 4}[colour] * depth // 8
    packed, row = zlib.compressobj(1), b"\0" * (1 + side * samples)
    body = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_windows_come_out_of_the_child(decoder: Decoder) -> None:
    """The child asks for ranges; while an image is open, small ones can be decoded."""
    image = random_image(3, 900)
    data = encode_pillow(image)
    for _ in range(2):
        assert decoder.open(make_range_file(data)) == image.shape[:2]
        for top in (0, 300, 860, 10):
            window = decoder.window(Box(top, 20, top + 40, 300)).samples
            assert np.array_equal(window, image[top : top + 40, 20:300])
            assert decoder.decode(encode_pillow(random_image(4))).samples.shape == (50, 57, 3)


def test_a_failure_of_the_store_keeps_its_own_error(decoder: Decoder) -> None:
    data = encode_pillow(random_image(3, 900))

    def failing(offset: int, _: int) -> None:
        if offset > 500_000:
            raise ImageError("network", "gone")

    assert decoder.open(make_range_file(data, failing)) == (900, 907)
    with pytest.raises(ImageError, match="network: gone"):
        decoder.window(Box(0, 0, 900, 907))
    assert decoder.decode(encode_pillow(random_image(4))).samples.shape == (50, 57, 3)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGSEGV, "unreadable: the decoder crashed twice"),
        (signal.SIGKILL, "internal: the decoder was killed from outside twice"),
    ],
)
def test_a_window_that_ends_the_decoder_twice_ends_its_image_only(
    decoder: Decoder, number: signal.Signals, error: str
) -> None:
    data = encode_pillow(random_image(3, 900))

    def deadly(offset: int, _: int) -> None:
        if offset > 500_000:
            assert decoder._child is not None
            decoder._child.send_signal(number)

    decoder.open(make_range_file(data, deadly))
    with pytest.raises(ImageError, match=error):
        decoder.window(Box(0, 0, 900, 907))
    with pytest.raises(ImageError, match=error):
        decoder.window(Box(0, 0, 1, 1))
    assert decoder.decode(encode_pillow(random_image(4))).samples.shape == (50, 57, 3)
    assert decoder.open(make_range_file(data)) == (900, 907)
    assert decoder.window(Box(0, 0, 900, 907)).samples.shape == (900, 907, 3)


def test_an_open_image_outlives_its_child(decoder: Decoder) -> None:
    """A window is tried again in a fresh child, in which the image is opened again."""
    image = random_image(3, 900)
    decoder.open(make_range_file(encode_pillow(image)))
    for number in (signal.SIGKILL, signal.SIGSEGV):
        with pytest.MonkeyPatch.context() as patch:
            send_signals(patch, number)
            assert np.array_equal(decoder.window(Box(5, 0, 900, 907)).samples, image[5:])
    assert decoder._child is not None
    decoder._child.kill()
    decoder._child.wait()
    assert np.array_equal(decoder.window(Box(5, 0, 900, 907)).samples, image[5:])


@pytest.mark.parametrize(
    "ranges", [[[0, -1]], [[-1, 5]], [[0, 2**40], [0, -(2**40)]], [[0, 1]] * 70_000, 5, [["a"]]]
)
def test_ranges_that_no_decoder_asks_for_end_the_child(decoder: Decoder, ranges: object) -> None:
    """A child that a hostile file took over asks for bytes before the file, or for too many."""
    asked: list[int] = []
    child, line = decoder._running(), json.dumps({"fetch": ranges}).encode() + b"\n"
    received = itertools.cycle([line, b'{"ready": true}\n'])
    file = make_range_file(b"data", lambda offset, _: asked.append(offset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_pipe, "_receive", lambda *_: next(received))
        with pytest.raises(ImageError, match=r"unreadable: .* crashed twice \(an invalid reply\)"):
            decoder.open(file)
    assert not asked
    assert child.poll() is not None
    assert decoder.decode(encode_pillow(random_image(4))).samples.shape == (50, 57, 3)


def test_an_endless_reply_is_cut_off(decoder: Decoder) -> None:
    received = itertools.chain([b'{"ready": true}\n'], itertools.repeat(b"a" * 2**20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_pipe, "_receive", lambda *_: next(received))
        with pytest.raises(ImageError, match=r"ended at its start \(an invalid reply\)"):
            decoder.decode(b"")
    assert decoder.decode(encode_pillow(random_image(4))).samples.shape == (50, 57, 3)


def test_a_slow_start_costs_one_image_and_mixes_up_no_other(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [random_image(seed) for seed in range(3)]
    monkeypatch.setattr("unet_ray.imaging.codecs.sandbox._START_LIMIT_S", 0.0)
    with pytest.raises(TimeoutError, match="the decoder did not start in 0 s"):
        decoder.decode(encode_pillow(images[0]))
    monkeypatch.undo()
    for image in images:
        assert np.array_equal(decoder.decode(encode_pillow(image)).samples, image)


def test_a_large_file_that_cannot_be_read_in_windows_is_not_fetched(decoder: Decoder) -> None:
    def small(_: int, size: int) -> None:
        assert size < 2**20

    with pytest.raises(
        ImageError, match="a file of 300000000 bytes that is not a TIFF, PNG or JPEG"
    ) as error:
        decoder.open(make_range_file(b"no image" * 2**17, small, 300_000_000))
    assert error.value.error_type == "too_large"


def test_a_file_that_asks_for_more_than_fits_is_not_fetched() -> None:
    """A TIFF of 64 GiB that says that its list of strips takes 2 GiB."""
    tags = {
        256: (3, 1, 100),
        257: (3, 1, 100),
        273: (4, 2**29, 200),
        278: (3, 1, 1),
        279: (4, 2**29, 200),
    }
    entries = [struct.pack("<HHII", tag, *values) for tag, values in tags.items()]
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)

    def small(_: int, size: int) -> None:
        assert size < 2**20

    decoder = Decoder(memory_limit_bytes=2**30)
    with pytest.raises(
        ImageError, match="decoding needs 2147483648 bytes of the file at once"
    ) as error:
        decoder.open(make_range_file(header + bytes(2**20), small, 2**36))
    assert error.value.error_type == "too_large"
    decoder.close()
