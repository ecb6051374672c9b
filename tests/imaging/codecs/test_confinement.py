"""A decoder's process is left with what decoding needs, whoever runs it on whatever kernel."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from tests.builders import make_range_file
from unet_ray.imaging.codecs import sandbox
from unet_ray.imaging.codecs.confinement import MEASURES
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box

ACTS = """
import _socket, json, os, signal, sys, threading
import pyseccomp  # which another user may not be allowed to read
from unet_ray.imaging.codecs.confinement import confine

user, *measures = sys.argv[1:]
if user == "nobody":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
active = confine(measures)
end = os._exit

def fork():
    if os.fork() == 0:
        end(0)

acts = {
    "file": lambda: open("/etc/passwd").close(),
    "write": lambda: os.close(os.open("/tmp", os.O_TMPFILE | os.O_RDWR)),
    "process": fork,
    "program": lambda: os.execve("/nothing", ["nothing"], {}),
    "network": lambda: _socket.socket().close(),
    "signal": lambda: os.kill(os.getppid(), 0),
    "thread": lambda: threading.Thread(target=int).start(),
    "memory": lambda: bytearray(2**24),
}
errors = {}
for name, act in acts.items():
    try:
        act()
    except OSError as error:
        errors[name] = error.errno
print(json.dumps([active, errors]))
"""
EPERM, ENOENT, EACCES = 1, 2, 13
NO_FILES = {"file": EACCES, "write": EACCES}
NO_CALLS = {name: EPERM for name in ("file", "write", "process", "program", "network", "signal")}


def has_landlock() -> bool:
    return any(name.startswith("landlock") for name in Decoder().confinement)


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize(
    ("measures", "errors"),
    [
        ([], {"program": ENOENT}),
        (["no_new_privs", "landlock"], NO_FILES | {"program": ENOENT}),
        (["no_new_privs", "seccomp"], NO_CALLS),
        (MEASURES, NO_CALLS),
    ],
    ids=["nothing", "landlock", "seccomp", "everything"],
)
def test_what_is_confined_can_only_compute(
    measures: list[str], errors: dict[str, int], user: str
) -> None:
    if user == "nobody" and os.getuid() != 0:
        pytest.skip("only root can become another user; the tests are run as another one already")
    if measures == ["no_new_privs", "landlock"] and not has_landlock():
        pytest.skip("this kernel has no Landlock")
    done = subprocess.run(
        [sys.executable, "-c", ACTS, user, *measures], capture_output=True, text=True, check=True
    )
    active, found = json.loads(done.stdout)
    scoped = {"signal": EPERM} if "landlock" in measures else {}  # from version 6 of Landlock
    if user == "nobody":
        scoped = {"signal": EPERM}  # the parent belongs to root
    assert found | scoped == errors | scoped
    assert [name.split()[0] for name in active] == [
        name for name in measures if name != "landlock" or has_landlock()
    ]


def test_the_child_of_a_decoder_is_confined_and_knows_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    decoder = Decoder()
    assert {"no_new_privs", "seccomp"} <= set(decoder.confinement)
    assert decoder._child is not None
    child = psutil.Process(decoder._child.pid)
    environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"hush" not in environment
    assert b"AWS" not in environment
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for limit, most in (
        (psutil.RLIMIT_FSIZE, 0),
        (psutil.RLIMIT_CORE, 0),
        (psutil.RLIMIT_NOFILE, 64),
        (psutil.RLIMIT_AS, sandbox.MEMORY_LIMIT_BYTES),
    ):
        assert child.rlimit(limit) == (most, most)
    decoder.close()


def test_a_decoder_without_measures_says_so() -> None:
    decoder = Decoder(measures=())
    assert decoder.confinement == ()
    decoder.close()


ENDLESS = """
from unet_ray.imaging.codecs.confinement import limit_cpu_time
limit_cpu_time(100)
limit_cpu_time(0.5)
while True:
    pass
"""


def test_the_system_ends_a_process_that_computes_for_too_long() -> None:
    """The limit moves: it counts from the last call."""
    done = subprocess.run([sys.executable, "-c", ENDLESS], check=False)
    assert done.returncode == -signal.SIGXCPU


def encode_tiff(image: np.ndarray, **how: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **how)
    return buffer.getvalue()


def encode_with_pillow(image: np.ndarray, form: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **how)
    return buffer.getvalue()


RGB = np.random.default_rng(0).integers(0, 255, (96, 80, 3), dtype=np.uint8)
DEEP = RGB[:, :, 0].astype(np.uint16) * 257
REAL = RGB[:, :, 0].astype(np.float32) / 7
COMPRESSIONS = ("deflate", "lzw", "packbits", "lzma", "zstd", "jpeg", "webp", "png", "jpeg2000")
FILES = {
    **{f"TIFF {name}": encode_tiff(RGB, compression=name) for name in COMPRESSIONS},
    **{
        f"TIFF {name}": encode_tiff(RGB, compression=name)
        for name in ("jpegxl", "jpegxr", "lerc")
        if getattr(imagecodecs, name.upper()).available
    },
    "TIFF predictor": encode_tiff(DEEP, compression="zlib", predictor=True),
    "TIFF float predictor": encode_tiff(REAL, compression="zlib", predictor=True),
    "TIFF tiles": encode_tiff(RGB, compression="zstd", tile=(32, 32)),
    "OME-TIFF": encode_tiff(DEEP, ome=True, metadata={"axes": "YX"}),
    "ImageJ": encode_tiff(DEEP, imagej=True),
    "PNG": encode_with_pillow(RGB, "PNG"),
    "PNG 16": imagecodecs.png_encode(np.stack([DEEP] * 3, -1)),
    "JPEG 2000": imagecodecs.jpeg2k_encode(RGB),
    **{name: encode_with_pillow(RGB, name) for name in ("JPEG", "WEBP", "AVIF", "BMP", "GIF")},
    "JPEG CMYK": encode_with_pillow(
        np.asarray(Image.fromarray(RGB).convert("CMYK"))[..., 0], "JPEG"
    ),
    "PPM": encode_with_pillow(RGB, "PPM"),
}


@pytest.fixture(scope="module")
def confined() -> Decoder:
    return Decoder()


@pytest.mark.parametrize("name", FILES)
def test_a_confined_decoder_reads_all_formats(confined: Decoder, name: str) -> None:
    """Libraries load parts of themselves when they need them; then it is too late."""
    data = FILES[name]
    assert np.array_equal(confined.decode(data).samples, decode_image(data).samples)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF tiles", "TIFF jpeg"])
def test_a_confined_decoder_reads_windows(confined: Decoder, name: str) -> None:
    data = FILES[name]
    assert confined.open(make_range_file(data)) == (96, 80)
    for box in (Box(0, 0, 40, 80), Box(40, 10, 96, 70), Box(0, 0, 8, 8)):
        expected = decode_image(data).samples[box.top : box.bottom, box.left : box.right]
        assert np.abs(confined.window(box).samples.astype(int) - expected).max() <= 2
