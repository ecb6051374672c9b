"""Pictures of a night that are worth a look: which images, which part of them, and what was found there."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unet_ray.archive.ledger import open_dataset
from unet_ray.archive.scratch import Scratch
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS
from unet_ray.errors import ImageError
from unet_ray.imaging.decoder import Decoder
from unet_ray.imaging.pictures import class_colour, image_panel
from unet_ray.imaging.tiling import Box
from unet_ray.imaging.windows import WHOLE_PIXELS
from unet_ray.inputs import open_ranges, read_file
from unet_ray.reporting.facts import Facts

_ZOOM_PX = 768
"""Side of the part of a large image that is shown."""
_AROUND = 2.0
"""How many times a region's own size is shown around it."""
_LEAST_ZOOM_PX = 96
_DENSITY_CELL_PX = 256
_MOST_LISTED = 200
"""Regions of a picture that the page's filters know."""
_QUALITY = 80

KINDS = {
    "most regions": "Images with the most regions",
    "largest": "The largest regions",
    "least certain": "The least certain regions of at least typical size",
    "random": "Images drawn at random",
}


@dataclass(frozen=True)
class Card:
    """One picture and what the page says of it."""

    kind: str
    image_uri: str
    caption: str
    jpeg: str
    """Base64."""
    regions: list[tuple[str, int, float]]
    """(class, px, score) of those in the picture, the largest first."""


def draw_gallery(database: Scratch, output: Storage, facts: Facts, each: int) -> tuple[list[Card], list[str]]:
    """Return the pictures, and a line for each image that could not be read.

    Args:
        database — with the night's tables, as `facts.gather` left it.
        output — root of the tables.
        facts — of the night.
        each — pictures of each kind.
    """
    chosen = list(_choose(database, facts, each))
    uris = sorted({uri for _, uri, _ in chosen})
    rows = _regions_of(output, facts, uris)
    access, decoder = Storage.of(uris[0]) if uris else output, Decoder()
    cards, problems = [], []
    try:
        for kind, uri, region_id in chosen:
            regions = rows.filter(pc.equal(rows["image_uri"], uri))
            try:
                cards.append(_card(kind, uri, region_id, regions, decoder, access, facts))
            except ImageError as error:
                problems.append(f"{uri}: {error.message}")
    finally:
        decoder.close()
    return cards, sorted(set(problems))


def _choose(database: Scratch, facts: Facts, each: int) -> Iterator[tuple[str, str, int | None]]:
    """Yield kind, image and, where it is about one, region."""
    runs = ", ".join(f"'{run_id}'" for run_id in facts.run_ids)
    ours = f"FROM named WHERE run_id IN ({runs}) AND date = '{facts.date}'"
    counted = f"SELECT image_uri, count(*) AS n {ours} GROUP BY image_uri ORDER BY n DESC, image_uri LIMIT {each}"
    for row in database.table(counted).to_pylist():
        yield "most regions", row["image_uri"], None
    typical = database.value(f"SELECT coalesce(median(area), 0) {ours}")
    for kind, condition, order in (
        ("largest", "", "area DESC"),
        ("least certain", f"AND area >= {typical}", "score"),
    ):
        query = f"SELECT image_uri, region_id {ours} {condition} ORDER BY {order}, image_uri, region_id LIMIT {each}"
        for row in database.table(query).to_pylist():
            yield kind, row["image_uri"], row["region_id"]
    drawn = (
        f"SELECT image_uri FROM images WHERE run_id IN ({runs}) AND date = '{facts.date}' AND error_type IS NULL "  # noqa: S608
        f"ORDER BY hash(image_uri), image_uri LIMIT {each}"
    )
    for row in database.table(drawn).to_pylist():
        yield "random", row["image_uri"], None


def _regions_of(output: Storage, facts: Facts, uris: list[str]) -> Any:
    wanted = pc.field("image_uri").isin(pa.array(uris, pa.string())) & pc.field("run_id").isin(facts.run_ids)
    dataset = open_dataset(output, "regions", SCHEMAS["regions"])
    columns = ["image_uri", "region_id", "class_id", "class_name", "area", "score", "bbox", "geometry"]
    return dataset.to_table(columns=columns, filter=wanted & (pc.field("date") == facts.date))


def _card(
    kind: str, uri: str, region_id: int | None, regions: Any, decoder: Decoder, access: Storage, facts: Facts
) -> Card:
    boxes = _boxes(regions)
    image, place, (height, width) = _view(uri, region_id, regions, boxes, decoder, access)
    inside = np.flatnonzero(
        (boxes[:, 0] < place.right) & (boxes[:, 2] > place.left)
        & (boxes[:, 1] < place.bottom) & (boxes[:, 3] > place.top)
    )  # fmt: skip
    shown = regions.take(inside)
    listed = shown.sort_by([("area", "descending")]).slice(0, _MOST_LISTED)
    columns = (listed[name].to_pylist() for name in ("class_name", "area", "score"))
    values = [(name, area, round(score, 4)) for name, area, score in zip(*columns, strict=True)]
    picture = _drawn(image, place, shown, region_id, facts)
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_QUALITY)
    return Card(kind, uri, _caption(regions, region_id, place, height, width), _base64(jpeg.getvalue()), values)


def _boxes(regions: Any) -> NDArray[np.float64]:
    sides = [pc.struct_field(regions["bbox"], side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")]
    return np.stack(sides, axis=1) if len(regions) else np.zeros((0, 4))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _view(
    uri: str, region_id: int | None, regions: Any, boxes: NDArray[np.float64], decoder: Decoder, access: Storage
) -> tuple[NDArray[Any], Box, tuple[int, int]]:
    """Return pixels, where in the image they lie, and the image's size: all of it, or the part that matters."""
    file, _, page = uri.partition("#page=")
    number = int(page) if page else None
    try:
        size = Storage(file, access.options).entry().size
    except OSError as error:
        raise ImageError("missing", f"the file cannot be read: {error}") from None
    height, width = decoder.open(open_ranges(access, file), size, number)
    place = Box(0, 0, height, width)
    if region_id is not None:
        place = _around(boxes[regions["region_id"].to_pylist().index(region_id)], height, width)
    elif height * width > WHOLE_PIXELS:
        place = _densest(boxes, height, width)
    if place.height * place.width > WHOLE_PIXELS:  # one region as large as that: its upper left part
        place = Box(place.top, place.left, place.top + _ZOOM_PX, place.left + _ZOOM_PX)
    if height * width <= WHOLE_PIXELS:
        whole = decoder.decode(read_file(access, file), number)
        return whole[place.top : place.bottom, place.left : place.right], place, (height, width)
    return decoder.window(place), place, (height, width)


def _around(box: NDArray[np.float64], height: int, width: int) -> Box:
    """Return a square around a region that shows where it lies."""
    side = max(_LEAST_ZOOM_PX, _AROUND * max(box[2] - box[0], box[3] - box[1]))
    high, wide = min(height, int(side)), min(width, int(side))
    top = int(np.clip((box[1] + box[3] - high) / 2, 0, height - high))
    left = int(np.clip((box[0] + box[2] - wide) / 2, 0, width - wide))
    return Box(top, left, top + high, left + wide)


def _densest(boxes: NDArray[np.float64], height: int, width: int) -> Box:
    """Return the part of a large image with the most regions."""
    middles = ((boxes[:, :2] + boxes[:, 2:]) / 2 // _DENSITY_CELL_PX).astype(int)
    cells, counts = np.unique(middles, axis=0, return_counts=True)
    column, row = cells[counts.argmax()] if len(cells) else (0, 0)
    x, y = (column + 0.5) * _DENSITY_CELL_PX, (row + 0.5) * _DENSITY_CELL_PX
    left = int(np.clip(x - _ZOOM_PX / 2, 0, max(0, width - _ZOOM_PX)))
    top = int(np.clip(y - _ZOOM_PX / 2, 0, max(0, height - _ZOOM_PX)))
    return Box(top, left, min(height, top + _ZOOM_PX), min(width, left + _ZOOM_PX))


def _drawn(image_hwc: NDArray[Any], place: Box, regions: Any, region_id: int | None, facts: Facts) -> Image.Image:
    """Draw outlines over the pixels; the region that a picture is about has its box as well."""
    panel = image_panel(image_hwc)
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    scale = np.array([panel.shape[1] / place.width, panel.shape[0] / place.height])
    colours = {number: class_colour(index) for index, number in enumerate(facts.classes)}
    for row in regions.select(["region_id", "class_id", "geometry", "bbox"]).to_pylist():
        colour, outline = colours[row["class_id"]], shapely.from_wkb(row["geometry"])
        for ring in shapely.get_rings(outline):
            points = (shapely.get_coordinates(ring) - [place.left, place.top]) * scale
            draw.line([tuple(point) for point in points.tolist()], fill=colour, width=2)
        if row["region_id"] == region_id:
            corners = np.array(shapely.bounds(outline)).reshape(2, 2)
            (left, top), (right, bottom) = (corners - [place.left, place.top]) * scale
            draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), outline="white", width=2)
    return picture


def _caption(regions: Any, region_id: int | None, place: Box, height: int, width: int) -> str:
    size = f"{width}×{height} px"
    if (place.height, place.width) != (height, width):
        size += f", of which {place.width}×{place.height} at x {place.left}, y {place.top}"
    if region_id is None:
        return f"{len(regions)} regions; {size}"
    row = regions.filter(pc.equal(regions["region_id"], region_id)).to_pylist()[0]
    return f"{row['class_name']}, {row['area']} px, score {row['score']:.3f}; {size}"
