"""Read an output: its tables, the rows that hold now, masks as arrays, pictures with overlays; no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unet_ray.archive.ledger import open_dataset
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS
from unet_ray.errors import InputError
from unet_ray.imaging.masks import decode_rle

COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
"""Class colours that colour-blind people can tell apart (Okabe and Ito 2008)."""

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


def overlay(image_hwc: NDArray[Any], regions: Any) -> Image.Image:
    """Draw regions over their image: filled lightly, outlined, in one colour per class.

    Args:
        image_hwc — as decoded; other types than uint8 are stretched to it.
        regions — rows of the regions table that belong to the image.
    """
    picture = Image.fromarray(_displayable(image_hwc)).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    ids = sorted(set(regions["class_id"].to_pylist()))
    for row in regions.select(["class_id", "geometry"]).to_pylist():
        colour = COLOURS[ids.index(row["class_id"]) % len(COLOURS)]
        for polygon in shapely.get_parts(shapely.from_wkb(row["geometry"])):
            draw.polygon(list(polygon.exterior.coords), fill=(*colour, 70))
            for hole in polygon.interiors:
                draw.polygon(list(hole.coords), fill=(0, 0, 0, 0))
            for ring in (polygon.exterior, *polygon.interiors):
                draw.line(list(ring.coords), fill=(*colour, 255), width=1)
    return Image.alpha_composite(picture, layer).convert("RGB")


def _displayable(image_hwc: NDArray[Any]) -> NDArray[np.uint8]:
    image = image_hwc if image_hwc.shape[2] in (1, 3) else image_hwc[:, :, :1]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)


def contact_sheet(pictures: list[Image.Image], columns: int, gap_px: int = 8) -> Image.Image:
    """Lay pictures out in rows on white, each row as high as its highest picture."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(p.width + gap_px for p in row) for row in rows) + gap_px
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) + gap_px for row in rows) + gap_px), "white")
    top = gap_px
    for row in rows:
        left = gap_px
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + gap_px
        top += max(p.height for p in row) + gap_px
    return sheet
