"""Read an output: its tables, the rows that hold now, masks as arrays, pictures with overlays; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.archive.ledger import open_dataset
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS
from unet_ray.errors import InputError
from unet_ray.imaging.masks import decode_rle
from unet_ray.imaging.pictures import COLOURS, contact_sheet, overlay

__all__ = ["COLOURS", "Tables", "contact_sheet", "masks_of", "open_tables", "overlay"]

_KEY = ["image_uri", "run_id"]


@dataclass(frozen=True)
class Tables:
    """The three tables of an output, with their partition column `date`."""

    images: Any
    masks: Any
    regions: Any


def open_tables(uri: str, current: bool = True) -> Tables:
    """Read an output's tables as Arrow tables.

    Args:
        uri — the output of segmentation.
        current — only the latest successful row of each image, and the masks and regions that belong to it;
            else the whole history.

    Raises: InputError — no tables there.
    """
    output = Storage.of(uri)
    if not output.exists("images"):
        raise InputError(f"{uri}: no tables here (images/); check --tables")
    tables = {name: open_dataset(output, name, schema).to_table() for name, schema in SCHEMAS.items()}
    if current:
        tables["images"] = _latest(tables["images"])
        keys = tables["images"].select(_KEY)
        for name in ("masks", "regions"):
            tables[name] = _rows_of(tables[name], keys)
    return Tables(**tables)


def _latest(images: Any) -> Any:
    """Return the latest successful row of each image."""
    good = images.filter(pc.field("error_type").is_null()).sort_by("segmented_at")
    last = good.append_column("row", pa.array(np.arange(len(good)))).group_by("image_uri").aggregate([("row", "max")])
    return good.take(last["row_max"].sort())


def _rows_of(table: Any, keys: Any) -> Any:
    """Return the rows of a table whose key is among `keys`."""
    numbered = table.select(_KEY).append_column("row", pa.array(np.arange(len(table))))
    kept = numbered.join(keys, _KEY, join_type="left semi")
    return table.take(kept["row"].sort())


def masks_of(tables: Tables, image_uri: str) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of an image, class name → (H, W)."""
    rows = tables.masks.filter(pc.field("image_uri") == image_uri).to_pylist()
    return {row["class_name"]: decode_rle(row["counts"], row["height"], row["width"]) for row in rows}
