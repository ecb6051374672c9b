"""Hostile manifests: each is planned as a slow obvious reading of its rows says, or is one line.

All cases run in one child process of bounded memory; each has a bounded time.
"""

from __future__ import annotations

import math
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.image_files import read_file
from unet_ray.segmentation.plan import make_plan
from unet_ray.storage.listing import scan_files
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.output_folder import take_inventory

_CASES = 500
_CASE_S = 60
"""Longest time of one manifest (s), on a machine that is busy."""
_MEMORY_BYTES = 4 * 2**30
_CONTENT = b"content"
_THERE = [
    *("a.png", "b c.png", "%FF.png", "q'uo\"te;--.png", "new\nline.png", "\x1b]0;t\x07.png"),
    *("\u202egnp", "日本.png", "#page=3", "a?b", "s.tif", "back\\slash.tif", "*[x].png", "None"),
]
"""Names of files; all hold _CONTENT."""
_NOT_THERE = [
    *("gone.png", "a.png/below.png", "x" * 300, "nul\0.png", "self.png", "dangling.tif"),
    *("%00", "\r", " ", "\x7f", "file://host/x", "file:///a%00", "file:///%FF", "file://"),
]
_NAMELESS: list[bytes | None] = [
    None,
    b"",
    b"\xff.png",
    b"a\xed\xa0\x80.png",
    b"\xc3",
    b"y" * 100_000,
]
_WRONG = [
    *(("image_uri", [["a.png"]]), ("image_uri", [1]), ("image_uri", [{"a": 1}])),
    *(("image_etag", [["x"]]), ("image_etag", [{"a": "x"}]), ("image_uri", [1.5])),
    *(("image_bytes", ["7"]), ("image_bytes", [b"\xff"]), ("image_bytes", [True])),
    *(("image_bytes", [[7]]), ("image_bytes", [{"a": 7}])),
]
"""Columns of a wrong type."""
_SIZES = [7, 0, -1, 2.0**62, None, 0.5, float("nan"), float("inf"), -0.0, 1e300]
_ETAGS = [b"etag", b'"quoted"', b'""', b"", None, b"\xff", b"a\x1b[8m"]
_OWN_FAULTS = ("missing", "denied", "unreadable")

Row = tuple[bytes | None, bytes | None, Any]
"""Name, etag and size of a row as the manifest has them."""


def make_archive(folder: Path) -> None:
    for name in _THERE:
        (folder / name).write_bytes(_CONTENT)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "dangling.tif").symlink_to(folder / "unmounted/s.tif")


def draw_rows(rng: random.Random) -> list[Row]:
    names: list[bytes | None] = [
        name.encode() for name in rng.sample(_THERE + _NOT_THERE, rng.randint(0, 12))
    ]
    names += rng.choices(_NAMELESS, k=rng.randint(0, 4))
    rng.shuffle(names)
    return [(name, rng.choice(_ETAGS), rng.choice(_SIZES)) for name in names]


def encode_texts(rng: random.Random, texts: list[bytes | None]) -> pa.Array:
    """Return texts as a column of one of the types that hold some; no type checks their bytes."""
    column = pa.array(texts, pa.binary())
    kind = rng.choice(["binary", "string", "large", "dictionary", "view"])
    if kind == "large":
        return column.cast(pa.large_binary()).view(pa.large_string())
    if kind == "view":
        return column.cast(pa.binary_view())
    if kind == "dictionary":
        return column.view(pa.string()).dictionary_encode()
    return column if kind == "binary" else column.view(pa.string())


def write_manifest(rng: random.Random, rows: list[Row], path: Path) -> tuple[bool, bool]:
    """Write rows as a manifest; return whether it has etags, and sizes."""
    has_etags, has_sizes = rng.random() < 0.6, rng.random() < 0.6
    columns = {"image_uri": encode_texts(rng, [name for name, *_ in rows])}
    if has_etags:
        columns["image_etag"] = encode_texts(rng, [etag for _, etag, _ in rows])
    if has_sizes:
        sizes = [size for *_, size in rows]
        are_whole = all(size is None or size in (7, 0, -1, 2**62) for size in sizes)
        columns["image_bytes"] = pa.array(sizes, pa.int64() if are_whole else pa.float64())
    if rng.random() < 0.3:
        columns["unused"] = pa.array([[1]] * len(rows))
    pq.write_table(pa.table(columns), path, row_group_size=rng.choice([1, 5, 1000]))
    return has_etags, has_sizes


def read_text(data: bytes | None) -> str | None:
    if data is None or len(data) > 8192:
        return None
    try:
        return data.decode() or None
    except UnicodeDecodeError:
        return None


def expect_rows(
    rows: list[Row], folder: Path, has_etags: bool, has_sizes: bool
) -> dict[str, tuple[str, int]]:
    """Return etag and size of each image by its URI, read row by row."""
    expected = {}
    for data, etag_data, size in rows:
        name = read_text(data)
        if name is None:
            continue
        etag = (read_text(etag_data) or "").strip('"') if has_etags else ""
        is_size = has_sizes and size is not None and math.isfinite(size)
        known = int(size) if is_size and 0 <= size < 2**63 and size == int(size) else None
        if not etag or known is None:
            found = os.stat(folder / name) if name in _THERE else None
            if found:
                etag = etag or f"{found.st_size}-{found.st_mtime_ns}"
                known = found.st_size if known is None else known
            else:
                known = 0
        uri = name if name.startswith("file://") else f"{folder}/{name}"
        expected[uri] = (etag, known or 0)
    return expected


def check_rows(rng: random.Random, folder: Path) -> None:
    """Plan and read a manifest, and compare each row with what is expected."""
    rows, path = draw_rows(rng), folder / "m.parquet"
    has_etags, has_sizes = write_manifest(rng, rows, path)
    expected = expect_rows(rows, folder, has_etags, has_sizes)
    scan = scan_files(str(path), (), "--images")
    with open_workspace() as database:
        inventory = take_inventory(Storage.of(f"{folder}/tables"))
        try:
            plan = make_plan(database, scan, inventory, ("model", "config"))
        except InputError:
            assert not expected
            return
        assert expected
        planned = [row for block in plan.blocks(4, 0, 8) for row in block.to_pylist()]
    assert scan.nameless == len(rows) - len(expected)
    assert len(planned) == len(expected)
    found = {row["image_uri"]: (row["image_etag"], row["image_bytes"]) for row in planned}
    assert found == expected, (found, expected)
    for uri in expected:
        name = uri.removeprefix(f"{folder}/")
        assert read_outcome(uri) in (["read"] if name in _THERE else _OWN_FAULTS), uri


def read_outcome(uri: str) -> str:
    """Return the error type of a file that cannot be read, or `read`."""
    try:
        data = read_file(Storage.of("/"), uri)
    except ImageError as error:
        return error.error_type
    assert data == _CONTENT
    return "read"


def listing_error(manifest: Path) -> str | None:
    """Return the line about a manifest that cannot be listed; None where it can."""
    try:
        for _ in scan_files(str(manifest), (), "--images"):
            pass
    except InputError as error:
        return str(error)
    return None


def check_wrong_column(rng: random.Random, folder: Path) -> None:
    name, values = rng.choice(_WRONG)
    columns = {"image_uri": pa.array(["a.png"]), name: pa.array(values)}
    pq.write_table(pa.table(columns), folder / "m.parquet")
    line = listing_error(folder / "m.parquet") or ""
    assert f"the column {name} of the manifest has the type" in line, columns
    assert "\n" not in line


def check_damaged(rng: random.Random, folder: Path) -> None:
    """Read a manifest with flipped or missing bytes: one line, or rows that are read as any."""
    path = folder / "m.parquet"
    write_manifest(rng, draw_rows(rng), path)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: len(data) if rng.random() < 0.7 else rng.randrange(len(data))])
    assert "\n" not in (listing_error(path) or "")


def check_all(folder: Path) -> None:
    """Check every case; the first that fails ends the process with its seed."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    make_archive(folder)
    for seed in range(_CASES):
        rng = random.Random(seed)
        check = rng.choices((check_rows, check_wrong_column, check_damaged), (6, 1, 3))[0]
        signal.alarm(_CASE_S)
        try:
            check(rng, folder)
        except BaseException:
            print(f"{check.__name__} with seed {seed}", file=sys.stderr)
            raise
    signal.alarm(0)


@pytest.mark.soak
def test_each_row_of_a_hostile_manifest_is_planned_or_left_out(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.fuzz.test_manifests import check_all"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; check_all(Path(sys.argv[1]))", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
