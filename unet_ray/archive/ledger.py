"""What is done and what is not: the images table of an output read as a ledger."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from unet_ray.archive.scratch import Scratch
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import IMAGES

TRANSIENT_ERRORS = ("network", "denied", "missing", "changed", "out_of_memory", "internal")
"""Failures that were not the file's: such an image is tried again on the next night."""


def open_ledger(database: Scratch, output: Storage, model_digest: str, config_digest: str) -> None:
    """Name what a model and a configuration did in an output; one that is not there yet has an empty ledger.

    done (image_uri, image_etag, pages) — successful.
    failed (image_uri, image_etag, pages) — failed by the file's own fault.
    tried (image_uri, image_etag, pages) — every row of that model and configuration.
    known (image_uri) — done or failed with any content, model or configuration.
    """
    images = open_dataset(output, "images", IMAGES) if output.exists("images") else IMAGES.empty_table()
    ours = (pc.field("model_digest") == model_digest) & (pc.field("config_digest") == config_digest)
    faults = ~pc.field("error_type").isin(TRANSIENT_ERRORS)
    subsets = {
        "done": ours & pc.field("error_type").is_null(),
        "failed": ours & pc.field("error_type").is_valid() & faults,
        "tried": ours,
    }
    for name, condition in subsets.items():
        database.read(name, images.filter(condition), ("image_uri", "image_etag", "pages"))
    database.read("known", images, ("image_uri",))


def open_run(database: Scratch, output: Storage, run_id: str) -> None:
    """Name the keys that a run wrote: `written` (image_uri, image_etag)."""
    paths = [e.path for e in output.entries("images") if run_id in e.path] if output.exists("images") else []
    images = open_dataset(output, "images", IMAGES, paths) if paths else IMAGES.empty_table()
    database.read("written", images, ("image_uri", "image_etag"))


def open_dataset(output: Storage, table: str, schema: Any, paths: list[str] | None = None) -> Any:
    """Open one table of an output as an Arrow dataset with its hive partition `date`; of all its files, or of some."""
    root = output.join(table)
    return pds.dataset(
        root.path if paths is None else [f"{root.path}/{path}" for path in paths],
        schema=schema.append(pa.field("date", pa.string())),
        format="parquet",
        filesystem=LocalFileSystem() if root.is_local else PyFileSystem(FSSpecHandler(root.filesystem)),
        partitioning=pds.partitioning(pa.schema([pa.field("date", pa.string())]), flavor="hive"),
    )


def remove_leftovers(output: Storage) -> list[str]:
    """Remove masks and regions files without an images file of the same name: what a crash left; return their paths."""
    present = {table: {e.path for e in _entries(output, table)} for table in ("masks", "regions", "images")}
    leftovers = [f"{t}/{path}" for t in ("masks", "regions") for path in sorted(present[t] - present["images"])]
    for path in leftovers:
        output.delete(path)
    return leftovers


def _entries(output: Storage, folder: str) -> list[Any]:
    return output.entries(folder) if output.exists(folder) else []
