"""The pictures of a report: the choice of images and parts, drawn with their regions."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import parse_channels
from unet_ray.image_sources.encoded import (
    ImageFinder,
    find_place,
    open_encoded,
    read_encoded,
)
from unet_ray.image_sources.names import split_uri
from unet_ray.imaging.channels import (
    ChannelSelection,
    ChosenChannels,
    ImageChannels,
    InputChannels,
    take_channels,
    take_pages,
)
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.sandbox import Decoder, DecoderPool
from unet_ray.imaging.drawing.overlay import class_colour, stretch_contrast
from unet_ray.imaging.drawing.panels import PANEL_PX, image_panel
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.outline_wkb import parse_outlines
from unet_ray.limits import WHOLE_BYTES, WHOLE_PIXELS
from unet_ray.output.pixel_area import PIXEL_SIDES, measure_pixel_area
from unet_ray.output.report.facts import Facts
from unet_ray.output.sound_rows import SOUND_COLUMNS, SOUND_ROWS
from unet_ray.prefetch import ahead
from unet_ray.storage.roots import Gate, Roots
from unet_ray.storage.storage import Storage
from unet_ray.tables.committed import CommittedShards, row_schema
from unet_ray.tables.duckdb_workspace import Workspace

_DETAIL_PX = 2 * PANEL_PX
"""Longest side of an image that is shown only as a whole (px). A panel of a larger one would lose
too much detail, so its densest part is shown as well."""
_ZOOM_PX = 768
"""Side of the part of a large image that is shown (px)."""
_ZOOM_FACTOR = 2.0
"""Side of the picture of a region, as a multiple of the region's longer side."""
_MIN_ZOOM_PX = 96
"""Minimum side of the picture of a region (px)."""
_DENSITY_CELL_PX = 256
"""Side of the cells in which regions are counted to find the densest part (px)."""
_MAX_OUTLINED = 4000
"""Maximum number of regions that are outlined in a picture; more are drawn as dots."""
_MAX_THUMBNAIL_PIXELS = 2**30
"""Largest image that is read for a thumbnail (px); it takes about four seconds. The thumbnail of a
larger image is grey."""
_STRIP_PIXELS = 2**24
"""Number of pixels that are read at a time for a thumbnail."""
_FETCHED_IMAGES = 16
"""Number of images that are fetched before they are drawn."""
_FETCHED_BYTES = 2**26
"""Total size of the files of these images (bytes); a larger file is fetched alone."""
_QUALITY = 80
"""JPEG quality of the pictures."""

KINDS = {
    "most regions": "Images with the most regions",
    "largest": "The largest regions",
    "least certain": "The least certain regions of at least typical size",
    "random": "Images drawn at random",
}


@dataclass(frozen=True)
class Card:
    """One picture of the page and its description."""

    kind: str
    """Kind of the picture, a key of `KINDS`."""
    image_uri: str
    """URI of the image."""
    caption: str
    """Caption below the picture."""
    jpeg: str
    """Picture, a JPEG file in base64."""
    whole: str | None
    """Thumbnail of a large image with a box around the part that `jpeg` shows (base64)."""
    regions: list[tuple[str, int, float]]
    """Class, area (px) and score of the regions that the page's filters need, the largest first."""


def draw_gallery(
    database: Workspace, shards: CommittedShards, facts: Facts, num_each: int, gate: Gate
) -> tuple[list[Card], list[str]]:
    """Choose and draw the pictures of a report.

    Args:
        database: Workspace with the date's tables, as `facts.gather` leaves it.
        shards: Shards of the output.
        facts: Facts of the date.
        num_each: Number of pictures of each kind.
        gate: Decides which images may be opened, since the tables that name them are not trusted.

    Returns:
        The pictures; and lines about problems: one for each image that could not be read, and one
        for all images that must not be opened.
    """
    by_image: dict[str, list[tuple[int, str, int | None]]] = defaultdict(list)
    for place, (kind, uri, region_id) in enumerate(_choose(database, num_each)):
        by_image[uri].append((place, kind, region_id))
    uris = list(by_image)
    files = _read_sizes(database, uris)
    rows = _read_regions(database, shards, facts, uris)
    channels = _find_channels(facts)
    cards: dict[int, Card] = {}
    problems = []
    admitted = [uri for uri in sorted(by_image) if gate.admits(split_uri(uri)[0])]

    def fetch(uri: str) -> _FetchedImage | ImageError:
        """Fetch an image; return the error of one that cannot be read."""
        try:
            return _fetch_image(
                uri=uri,
                known=files.get(uri),
                finder=finder,
                roots=gate.roots,
                channels=channels,
            )
        except ImageError as error:
            return error

    with (
        DecoderPool(1) as finder,
        closing(Decoder()) as decoder,
        ThreadPoolExecutor(_FETCHED_IMAGES) as pool,
    ):
        fetched = ahead(
            pool,
            fetch,
            admitted,
            _FETCHED_IMAGES,
            size=lambda uri: files.get(uri, {}).get("image_bytes") or 0,
            most_size=_FETCHED_BYTES,
        )
        for uri, image in zip(admitted, fetched, strict=True):
            try:
                if isinstance(image, ImageError):
                    raise image
                of_image = rows.filter(pc.field("image_uri") == uri)
                found = _Found.of(of_image, facts, files[uri])
                if found.unsound:
                    problems.append(f"{found.unsound} regions of {uri}: damaged outlines")
                opened = _OpenImage(image, decoder, channels)
                cards |= {
                    place: _draw_card(kind, opened, found, region_id)
                    for place, kind, region_id in by_image[uri]
                }
            except ImageError as error:
                problems.append(f"{uri}: {error.message}")
    if gate.stopped:
        problems.append(f"{gate.stopped} images {gate.reason}")
    return [cards[place] for place in sorted(cards)], problems


def _find_channels(facts: Facts) -> ChannelSelection | None:
    """Return the channels that the network took of each image; None if no record states them."""
    for record in facts.records:
        chosen = record.get("input_channels")
        settings = record.get("config")
        try:
            if isinstance(settings, dict) and isinstance(settings.get("channels"), str):
                return ChosenChannels(parse_channels(settings["channels"]))
            if isinstance(chosen, list):
                return InputChannels.of(len(chosen), tuple(chosen), record.get("image_channels"))
        except (InputError, TypeError):  # records are not trusted
            continue
    return None


def _choose(database: Workspace, each: int) -> Iterator[tuple[str, str, int | None]]:
    """Yield the kind, the image and, for pictures of one region, the region id."""
    counted = (
        "SELECT image_uri, count(*) AS n FROM date_regions GROUP BY image_uri "
        f"ORDER BY n DESC, image_uri LIMIT {each}"
    )
    for row in database.table(counted).to_pylist():
        yield "most regions", row["image_uri"], None
    for kind, condition, order in (
        ("largest", "true", "area DESC"),
        ("least certain", "area >= (SELECT median(area) FROM date_regions)", "score"),
    ):
        query = (
            f"SELECT image_uri, region_id FROM date_regions WHERE {condition} "
            f"ORDER BY {order}, image_uri, region_id LIMIT {each}"
        )
        for row in database.table(query).to_pylist():
            yield kind, row["image_uri"], row["region_id"]
    random = (
        "SELECT image_uri FROM date_images WHERE error_type IS NULL "
        f"ORDER BY hash(image_uri), image_uri LIMIT {each}"
    )
    for row in database.table(random).to_pylist():
        yield "random", row["image_uri"], None


def _read_sizes(database: Workspace, uris: list[str]) -> dict[str, dict[str, Any]]:
    """Return the height, width, bytes and pixel size of images at the time they were segmented."""
    chosen = pa.table({"image_uri": pa.array(uris, pa.string())})
    database.read("chosen", chosen, ("image_uri",))
    rows = database.table(
        f"SELECT image_uri, height, width, image_bytes, {', '.join(PIXEL_SIDES)} "
        "FROM date_images "
        "SEMI JOIN chosen USING (image_uri) WHERE error_type IS NULL ORDER BY segmented_at"
    ).to_pylist()
    return {row["image_uri"]: row for row in rows}


def _read_regions(
    database: Workspace, shards: CommittedShards, facts: Facts, uris: list[str]
) -> pa.Table:
    """Return the sound regions of some images; only the shards that have these are read."""
    paths = database.table(
        "SELECT DISTINCT shard FROM date_images SEMI JOIN chosen USING (image_uri)"
    )
    wanted = pc.field("image_uri").isin(pa.array(uris, pa.string()))
    wanted &= pc.field("run_id").isin(facts.run_ids) & SOUND_ROWS["regions"]
    of_images = shards.of_paths({*paths["shard"].to_pylist()})
    columns = [*SOUND_COLUMNS["regions"]]
    found = [rows.filter(wanted) for _, rows in of_images.iterate("regions", columns)]
    return pa.concat_tables([row_schema("regions", columns).empty_table(), *found])


@dataclass(frozen=True)
class _Found:
    """The regions of one image."""

    rows: pa.Table
    """Regions rows."""
    boxes: NDArray[np.float64]
    """Boxes of the regions; (N, 4), x0, y0, x1, y1 (px)."""
    outlines: NDArray[Any]
    """Outlines of the regions, shapely geometries; (N,)."""
    colours: dict[int, tuple[int, int, int]]
    """Colours (RGB) by class id."""
    unsound: int = 0
    """Number of regions that are left out, because their outline or class is invalid."""

    @staticmethod
    def of(rows: pa.Table, facts: Facts, size: Mapping[str, int]) -> _Found:
        """Take the regions from their rows; `size` is the height and width of the image."""
        outlines = parse_outlines(rows["geometry"].to_pylist(), size["height"], size["width"])
        of_class = np.isin(rows["class_id"].to_numpy(), list(facts.classes))
        sound = np.flatnonzero(~shapely.is_missing(outlines) & of_class)
        num_unsound = len(rows) - len(sound)
        rows = rows.take(sound)
        outlines = outlines[sound]
        sides = [
            pc.struct_field(rows["bbox"], side).to_numpy()
            for side in ("xmin", "ymin", "xmax", "ymax")
        ]
        boxes = np.stack(sides, axis=1) if len(rows) else np.zeros((0, 4))
        colours = {number: class_colour(index) for index, number in enumerate(facts.classes)}
        return _Found(
            rows=rows, boxes=boxes, outlines=outlines, colours=colours, unsound=num_unsound
        )

    def box_of(self, region_id: int) -> NDArray[np.float64]:
        """Return the box of a region; raise ImageError if it is left out."""
        ids = self.rows["region_id"].to_pylist()
        if region_id not in ids:
            raise ImageError("unreadable", f"the outline of region {region_id} is damaged")
        box: NDArray[np.float64] = self.boxes[ids.index(region_id)]
        return box

    def select(self, place: Box) -> _Found:
        """Return the regions that reach into a part of the image."""
        left, top, right, bottom = self.boxes.T
        inside = (
            (left < place.right)
            & (right > place.left)
            & (top < place.bottom)
            & (bottom > place.top)
        )
        rows = self.rows.take(np.flatnonzero(inside))
        return _Found(rows, self.boxes[inside], self.outlines[inside], self.colours)

    def list_best(self) -> list[tuple[str, int, float]]:
        """Return class, area (px) and score of regions that no other of their class tops in both.

        The page's filters need no other regions: if any passes a filter, one of these does too.
        """
        rows = self.rows.select(["class_name", "area", "score"]).to_pylist()
        best: dict[str, float] = {}
        kept = []
        for row in sorted(rows, key=lambda row: (-row["area"], -row["score"])):
            name, area, score = row["class_name"], row["area"], row["score"]
            if score > best.get(name, -1.0):
                best[name] = score
                kept.append((name, area, round(score, 4)))
        return kept


@dataclass(frozen=True)
class _FetchedImage:
    """An image whose bytes are fetched, unless it is large."""

    uri: str
    """URI of the image as it stands in the tables."""
    known: dict[str, Any]
    """Height, width, image_bytes and size of a pixel of its row."""
    access: Storage
    """Storage that opens the file."""
    place: ImagePlace | None
    """Place of the image in a file of several pages; None for a file with one."""
    data: bytes | PlaneFile | None
    """The bytes; None for a large image, of which windows are read."""


def _fetch_image(
    uri: str,
    known: dict[str, Any] | None,
    finder: ImageFinder,
    roots: Roots,
    channels: ChannelSelection | None,
) -> _FetchedImage:
    """Fetch an image.

    Args:
        uri: URI of the image as it stands in the tables.
        known: Some columns of its row, as `_FetchedImage` has them; None: there is no row.
        finder: Finds the images of a file that has several.
        roots: Folders outside of which nothing is opened.
        channels: Channels that the network took of it; None: all.

    Raises:
        ImageError: The image cannot be read any more.
    """
    if known is None:
        raise ImageError("missing", "this image has no successful row on the date of the report")
    file, key = split_uri(uri)
    try:
        access = roots.open(file)
        entry = access.entry()
    except (OSError, InputError) as error:
        raise ImageError("missing", f"the file cannot be read: {error}") from None
    if entry.size != known["image_bytes"]:
        raise ImageError("changed", "the file has changed since it was segmented")
    place = find_place(finder, access, entry, key)
    data = None
    if known["height"] * known["width"] <= WHOLE_PIXELS and entry.size <= WHOLE_BYTES:
        pages = take_pages(place, channels)
        data = read_encoded(access, access.uri, pages, limit=WHOLE_BYTES)
    return _FetchedImage(uri=uri, known=known, access=access, place=place, data=data)


class _OpenImage:
    """An image of any size, opened to make pictures of it.

    Args:
        fetched: The image.
        decoder: Decoder that opens or decodes it.
        channels: Channels that the network took of it; None: all.

    Raises:
        ImageError: The image cannot be read any more; the methods raise it too.
    """

    def __init__(
        self, fetched: _FetchedImage, decoder: Decoder, channels: ChannelSelection | None = None
    ) -> None:
        self.uri = fetched.uri
        self.height = fetched.known["height"]
        self.width = fetched.known["width"]
        self._decoder = decoder
        self._channels = channels
        self.pixel_um2 = measure_pixel_area(fetched.known)
        self._place = fetched.place
        self._pixels: NDArray[Any] | None = None
        self._are_colours = False
        if fetched.data is None:
            pages = take_pages(fetched.place, channels)
            decoder.open(open_encoded(fetched.access, fetched.access.uri, pages))
            return
        self._pixels = self._show(decoder.decode(fetched.data))
        if self._pixels.shape[:2] != (self.height, self.width):
            raise ImageError("changed", "the size of the image has changed since it was segmented")

    def _show(self, image: DecodedImage) -> NDArray[Any]:
        """Return the first three channels that the network took, or one if it took fewer."""
        taken = take_channels(image, self._place, self._channels)
        self._are_colours = ImageChannels.of(taken).is_colour
        num_shown = 3 if taken.samples.shape[2] >= 3 else 1
        return taken.samples[:, :, :num_shown]

    def _stretch(self, shown_hwc: NDArray[Any]) -> NDArray[Any]:
        """Stretch each channel by itself, since ranges differ, unless the channels are colours."""
        if shown_hwc.shape[2] == 1 or self._are_colours:
            return shown_hwc
        channels = np.moveaxis(shown_hwc, 2, 0)
        return np.dstack([stretch_contrast(channel) for channel in channels])

    @property
    def all(self) -> Box:
        """The whole image."""
        return Box(0, 0, self.height, self.width)

    def read(self, place: Box) -> NDArray[Any]:
        """Return a part of the image, HWC."""
        if self._pixels is None:
            return self._stretch(self._show(self._decoder.window(place)))
        part = self._pixels[place.top : place.bottom, place.left : place.right]
        return self._stretch(part)

    @cached_property
    def thumbnail(self) -> NDArray[Any]:
        """Thumbnail of the image: every n-th row and column, HWC, about 1024 px a side at most."""
        step = max(1, max(self.height, self.width) // _DETAIL_PX)
        if self._pixels is not None:
            return self._stretch(self._pixels[::step, ::step])
        if self.height * self.width > _MAX_THUMBNAIL_PIXELS:
            height = math.ceil(self.height / step)
            width = math.ceil(self.width / step)
            return np.full((height, width, 1), 128, np.uint8)
        num_rows = max(1, _STRIP_PIXELS // (self.width * step)) * step
        strips = []
        for top in range(0, self.height, num_rows):
            place = Box(top, 0, min(top + num_rows, self.height), self.width)
            window = self._show(self._decoder.window(place))
            strips.append(window[::step, ::step])
        return self._stretch(np.concatenate(strips))


def _draw_card(kind: str, image: _OpenImage, found: _Found, region_id: int | None) -> Card:
    """Draw an image, or a part of it with a thumbnail that shows where the part lies."""
    place = image.all
    marked = None
    if region_id is not None:
        marked = found.box_of(region_id)
        place = _frame_region(marked, image.height, image.width)
    elif max(image.height, image.width) > _DETAIL_PX:
        place = _find_densest(found.boxes, image.height, image.width)
    if place.height * place.width > WHOLE_PIXELS:  # a huge region: show its upper left part
        place = Box(place.top, place.left, place.top + _ZOOM_PX, place.left + _ZOOM_PX)
    shown = found.select(place)
    whole = None
    if place != image.all and max(image.height, image.width) > _DETAIL_PX:
        corners = np.array([place.left, place.top, place.right, place.bottom])
        whole = _encode_jpeg(_draw_regions(image.thumbnail, image.all, found, corners))
    return Card(
        kind=kind,
        image_uri=image.uri,
        caption=_write_caption(image, found.rows, region_id, place),
        jpeg=_encode_jpeg(_draw_regions(image.read(place), place, shown, marked)),
        whole=whole,
        regions=shown.list_best(),
    )


def _encode_jpeg(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _frame_region(box: NDArray[np.float64], height: int, width: int) -> Box:
    """Return a square around a region, large enough to show its surroundings."""
    xmin, ymin, xmax, ymax = box
    longer_side = max(xmax - xmin, ymax - ymin)
    side = int(max(_MIN_ZOOM_PX, _ZOOM_FACTOR * longer_side))
    high = min(height, side)
    wide = min(width, side)
    top = int(np.clip((ymin + ymax - high) / 2, 0, height - high))
    left = int(np.clip((xmin + xmax - wide) / 2, 0, width - wide))
    return Box(top, left, top + high, left + wide)


def _find_densest(boxes: NDArray[np.float64], height: int, width: int) -> Box:
    """Return the part of a large image with the most regions."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells, counts = np.unique((centres // _DENSITY_CELL_PX).astype(int), axis=0, return_counts=True)
    column, row = cells[counts.argmax()] if len(cells) else (0, 0)
    x = (column + 0.5) * _DENSITY_CELL_PX
    y = (row + 0.5) * _DENSITY_CELL_PX
    left = int(np.clip(x - _ZOOM_PX / 2, 0, max(0, width - _ZOOM_PX)))
    top = int(np.clip(y - _ZOOM_PX / 2, 0, max(0, height - _ZOOM_PX)))
    return Box(top, left, min(height, top + _ZOOM_PX), min(width, left + _ZOOM_PX))


def _draw_regions(
    pixels_hwc: NDArray[Any], place: Box, found: _Found, marked: NDArray[np.float64] | None
) -> Image.Image:
    """Draw regions over a part of an image, and a white box around the marked one."""
    panel = image_panel(pixels_hwc)
    panel_height, panel_width = panel.shape[:2]
    scale = np.array([panel_width / place.width, panel_height / place.height])

    def put(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - [place.left, place.top]) * scale

    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    classes = found.rows["class_id"].to_numpy()
    if len(classes) > _MAX_OUTLINED:
        upper_left, lower_right = found.boxes[:, :2], found.boxes[:, 2:]
        middles = put((upper_left + lower_right) / 2)
        for number, colour in found.colours.items():
            draw.point(middles[classes == number].ravel().tolist(), fill=colour)
    else:
        for number, outline in zip(classes, found.outlines, strict=True):
            # only the parts of a multipolygon have rings
            for ring in shapely.get_rings(shapely.get_parts(outline)):
                points = put(shapely.get_coordinates(ring)).tolist()
                draw.line(list(map(tuple, points)), fill=found.colours[number], width=2)
    if marked is not None:
        (left, top), (right, bottom) = put(marked.reshape(2, 2))
        draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), outline="white", width=2)
    return picture


def _write_caption(image: _OpenImage, rows: pa.Table, region_id: int | None, place: Box) -> str:
    """Return the caption of a picture of a part of an image, or of one region in it."""
    size = f"{image.width}×{image.height} px"
    if place != image.all:
        size += f", of which {place.width}×{place.height} at x {place.left}, y {place.top}"
    if region_id is None:
        return f"{len(rows):,} regions; {size}"
    row = rows.filter(pc.equal(rows["region_id"], region_id)).to_pylist()[0]
    area = f"{row['area']} px"
    if image.pixel_um2 is not None:
        area += f" ({row['area'] * image.pixel_um2:.4g} µm²)"
    return f"{row['class_name']}, {area}, score {row['score']:.3f}; {size}"
