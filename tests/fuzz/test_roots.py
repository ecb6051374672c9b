"""Manifests that name what they should not: what is planned lies below the roots, or is one line.

    python -m pytest -m soak tests/fuzz/test_roots.py

All cases run in one child process of bounded memory, which may not connect to anything; each has a
bounded time.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import read_encoded
from unet_ray.segmentation.plan import make_plan
from unet_ray.storage.listing import scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.output_folder import take_inventory

_CASES = 500
_CASE_S = 60
"""Longest time of one manifest (s), on a machine that is busy."""
_MEMORY_BYTES = 4 * 2**30
_PASSWORD = "hunter2"
_FILES = ("in/a.png", "in/deep/b.png", "in/deep/c.tif", "inside/d.png", "out/secret.png", "top.png")
_LINKS = {
    "in/link": "deep",
    "in/out": "../out",
    "in/up": "..",
    "in/self": "self",
    "in/gone.png": "../nowhere.png",
    "in/secret.png": "../out/secret.png",
    "in/deep/root": "/",
    "alias": "in",
}
_PARTS = [
    *("in", "deep", "inside", "out", "link", "up", "self", "alias", "root", "etc", "..", ".", ""),
    *(
        "a.png",
        "b.png",
        "c.tif",
        "d.png",
        "secret.png",
        "gone.png",
        "passwd",
        "#page=1",
        "~",
        "%2e",
    ),
]
_PREFIXES = [
    *(
        "http://127.0.0.1:9/",
        f"https://user:{_PASSWORD}@127.0.0.1/",
        "ftp://127.0.0.1/",
        "local://",
    ),
    *("memory://", "github://o:r@main/", "reference://", "zip://x::", "dir://", "data://", "://"),
    *("simplecache::file://", "s3a://bucket/", f"s3://key:{_PASSWORD}@bucket/", "S3://bucket/"),
    *(
        "s3://bucket/",
        "s3://",
        "s3:///",
        "gs://bucket/",
        "az://bucket/",
        "abfss://c@account/",
        "s3:",
    ),
    *("file://", "file://host/", "FILE://", "~/", "~root/", "//", "///"),
]
_SIZES = [0, 1, 7, 100, 2**28, 2**28 + 1, 2**62, 2**63 - 1, -1, -(2**63)]
_PICTURE_BYTES = 1000


def make_tree(folder: Path) -> None:
    for name in _FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(_PICTURE_BYTES))
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)


def draw_name(rng: random.Random, folder: Path) -> str:
    """Return a name: relative, absolute, of another scheme, or with one character changed."""
    path = "/".join(rng.choices(_PARTS, k=rng.randint(1, 5)))
    kind = rng.random()
    if kind < 0.5:
        name = f"{folder}/in/{rng.choice(['a.png', 'deep/b.png', 'link/b.png', path])}"
    elif kind < 0.65:
        name = path
    elif kind < 0.75:
        name = "file://" + quote(f"{folder}/{path}")
    elif kind < 0.9:
        name = f"{folder}/{path}"
    else:
        name = rng.choice(_PREFIXES) + path
    if rng.random() < 0.1:
        place = rng.randrange(len(name))
        name = name[:place] + rng.choice("/.:@?*\\ \n%~,'") + name[place + 1 :]
    return name


def draw_roots(rng: random.Random, folder: Path) -> Roots:
    uris = rng.choices(["in", "in/deep", "alias", "inside", "nowhere", "."], k=rng.randint(1, 2))
    text = rng.choice([None, ",".join(f"{folder}/{uri}" for uri in uris)])
    return Roots.parse(text, follow_links=rng.random() < 0.2)


def write_manifest(rng: random.Random, path: Path, most: int) -> None:
    names = list({draw_name(rng, path.parent.parent) for _ in range(rng.randint(1, most))})
    columns: dict[str, Any] = {"image_uri": names}
    if rng.random() < 0.7:
        columns["image_etag"] = [rng.choice(["1", "2"]) for _ in names]
    if rng.random() < 0.7:
        columns["image_bytes"] = pa.array([rng.choice(_SIZES) for _ in names], pa.int64())
    pq.write_table(pa.table(columns), path, row_group_size=rng.choice([1, 3]))


def lies_below(uri: str, roots: Roots, manifest: Path) -> bool:
    """Tell whether a path lies below a root: if it can be opened, the kernel says where it is."""
    folders = [str(manifest.parent)] if roots.uris is None else roots.uris
    if roots.follow_links:
        return any(f"{os.path.normpath(uri)}/".startswith(f"{folder}/") for folder in folders)
    try:
        handle = os.open(uri, os.O_PATH)
    except OSError:
        return uri.startswith("/")  # nothing that could be read
    real = Path(os.readlink(f"/proc/self/fd/{handle}"))
    os.close(handle)
    return any(real.is_relative_to(Path(folder).resolve()) for folder in folders)


def plan_files(manifest: Path, roots: Roots) -> list[str]:
    """Plan a manifest, and return the files of its images."""
    scan = scan_files(str(manifest), (), "--images", roots=roots)
    with open_workspace() as database:
        inventory = take_inventory(Storage.of(f"{manifest.parent}/tables"))
        plan = make_plan(database, scan, inventory, ("model", "config"))
        return [row["file_uri"] for block in plan.blocks(4, 0, 8) for row in block.to_pylist()]


def check_manifest(rng: random.Random, folder: Path) -> bool:
    """Plan a manifest, and check what is planned or said; return whether anything is planned."""
    manifest = folder / "in/m.parquet"
    write_manifest(rng, manifest, rng.choice([1, 1, 2, 12]))
    roots = draw_roots(rng, folder)
    said, planned = "", list[str]()
    try:
        planned = plan_files(manifest, roots)
    except InputError as error:
        said = str(error)
    assert bool(said) is not bool(planned)
    assert _PASSWORD not in said
    for uri in planned:
        if uri.startswith("file://"):  # a name that no file can have, which is not opened
            with pytest.raises(ImageError, match="unreadable"):
                read_encoded(Storage.of("/"), uri)
            continue
        assert lies_below(uri, roots, manifest), (uri, roots)
        if Path(uri).is_file():
            assert len(read_encoded(Storage.of("/"), uri, limit=_PICTURE_BYTES)) == _PICTURE_BYTES
    return bool(planned)


def refuse_connection(*_: object) -> None:
    raise AssertionError("a manifest made us connect to something")


def check_all(folder: Path) -> None:
    """Check every case; the first that fails ends the process with its seed."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    socket.socket.connect = socket.socket.connect_ex = refuse_connection  # type: ignore[assignment,method-assign]
    make_tree(folder)
    planned = 0
    for seed in range(_CASES):
        signal.alarm(_CASE_S)
        try:
            planned += check_manifest(random.Random(seed), folder)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
    signal.alarm(0)
    assert _CASES // 10 < planned < _CASES - _CASES // 10  # both outcomes are tried
    print(f"{planned} of {_CASES} manifests were planned")


@pytest.mark.soak
def test_no_manifest_reaches_beyond_its_roots(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.fuzz.test_roots import check_all"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; check_all(Path(sys.argv[1]))", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
