"""Objects of vector files (GeoJSON, GeoPackage, GeoParquet) are placed on images, in pixels.

Such a file says in which coordinate system it is, and seldom of which image it is. A georeferenced
image has a place in one, so that objects find their images: they are transformed to the image's
system and to its pixels, and cut where they go far beyond it. Without georeferenced images the
coordinates are pixels.

    objects in EPSG:4326 ──pyproj──> EPSG:32633 ──inverse affine──> pixels of each image they meet
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from unet_ray.errors import ImageError, InputError, one_line
from unet_ray.image_sources.encoded import open_encoded
from unet_ray.image_sources.names import page_uri, split_page
from unet_ray.image_sources.sources import header_decoders, list_pages
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.imaging.georeference import Georeference
from unet_ray.labelled_data.annotations import (
    UNSTATED,
    Annotations,
    AnnotationsBuilder,
    LabelError,
    Polygon,
)
from unet_ray.labelled_data.image_names import find_images
from unet_ray.labelled_data.pairs import remove_suffix
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.listing import Listing, path_suffix
from unet_ray.storage.storage import FileEntry, Storage

PIXELS = "pixels"
"""Value of --label-crs by which coordinates are pixels."""
_CODE = re.compile(r"[A-Z]{2,10}:\w{1,20}")
_MARGIN_PX = 16.0
"""How far objects that are cut may leave their image (px)."""
_DECIMALS = 6
"""Decimals of coordinates in pixels; floats of map coordinates are good to about eight."""
_MOST_PIXELS = 10**6
"""Coordinate beyond which no image reaches (px); slides have up to some 200,000."""
_FARTHEST = 1e12
"""Largest coordinate that is computed with, on maps and in pixels; the Earth is 4e7 m round."""
_ELSEWHERE = "features that lie on no image"
_NO_NUMBER = "features with coordinates that are no numbers, or have no place in an image's system"


@dataclass(frozen=True)
class ImagePlace:
    """An image of a listing, and its position on Earth."""

    entry: FileEntry
    """Its file."""
    page: int | None = None
    """Page of a stack, from 1; None for a file with one image."""
    georeference: Georeference | None = None
    """Its position; None if its file has none with an EPSG code."""
    width: int = 0
    """Width (px); 0 where there is no georeference."""
    height: int = 0
    """Height (px); 0 where there is no georeference."""

    @property
    def name(self) -> str:
        """Its path in the folder of the images, with the page of a stack."""
        return page_uri(self.entry.path, self.page)


@dataclass(frozen=True)
class PlacedAnnotations:
    """Annotations in pixels, and where they come from."""

    annotations: Annotations
    origins: NDArray[np.int64]
    """Row of each of their images in the annotations before; the first one of several."""


def needs_places(annotations: Annotations) -> bool:
    """Tell whether annotations have to go through `place_on_images`.

    They do not if each image has a name and coordinates in pixels.
    """
    images = annotations.images
    unnamed = pc.any(pc.equal(images["name"], ""), min_count=0).as_py()
    return bool(unnamed) or images["crs"].null_count < len(images)


def locate_images(images: Listing) -> list[ImagePlace]:
    """Return where images lie on Earth, from the tags of those that are TIFF files.

    An image whose tags cannot be read has no position; decoding it will report the reason.

    Args:
        images: Images; each page of a stack is one.
    """
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        some = pool.map(partial(_locate_pages, decoders, images.root), images.entries)
        return [image for pages in some for image in pages]


def _locate_pages(decoders: DecoderPool, access: Storage, entry: FileEntry) -> list[ImagePlace]:
    pages = [source.page for source in list_pages(decoders, access, entry)]
    return [_locate_page(decoders, access, entry, page) for page in pages]


def _locate_page(
    decoders: DecoderPool, access: Storage, entry: FileEntry, page: int | None
) -> ImagePlace:
    if path_suffix(entry.path) not in TIFF_SUFFIXES:
        return ImagePlace(entry, page)
    try:
        file = open_encoded(Storage(entry.uri, access.options), entry.uri)
        tags = decoders.read_geo_tags(file, page)
    except (OSError, ImageError, InputError):
        return ImagePlace(entry, page)
    georeference = Georeference.from_tags(tags)
    if tags is None or georeference is None:
        return ImagePlace(entry, page)
    return ImagePlace(entry, page, georeference, tags.width, tags.height)


def place_on_images(
    annotations: Annotations,
    images: Sequence[ImagePlace],
    named: str,
    label_crs: str | None = None,
) -> PlacedAnnotations:
    """Place objects whose coordinates may be those of a map on the images of a listing.

    Where no image is georeferenced, coordinates are pixels; y may run upwards, as in QGIS, where an
    image without a georeference lies between y = 0 and minus its height. Where images are, they are
    in the system that the label file states, and objects whose file names no image go to all images
    that they meet. Of images that none meets, those within the extent of the objects are background
    altogether; those beyond it are unlabelled and left out. Several files that name no image are
    each about the image of the same name, if there is one.

    Args:
        annotations: Annotations; images in pixels that have a name stay as they are.
        images: Images of the listing (`locate_images`).
        named: Flag and URI of the label files, for messages.
        label_crs: `pixels` or AUTHORITY:CODE where the user says what coordinates are.

    Returns:
        Annotations whose images all have a name and coordinates in pixels.

    Raises:
        InputError: Coordinates can be read in two ways, or in none; the text names the flag.
    """
    try:
        if label_crs is not None and label_crs.lower() != PIXELS:
            _check_flag(annotations, images, label_crs)
        if not needs_places(annotations):
            return PlacedAnnotations(annotations, np.arange(len(annotations.images)))
        placement = _Placement(annotations, images, named, label_crs)
        for crs in placement.list_systems():
            placement.place(crs)
        return placement.finish()
    except LabelError as error:
        raise InputError(f"{named}: {error}") from None
    except shapely.errors.GEOSException as error:
        raise InputError(f"{named}: outlines that cannot be cut: {one_line(error)}") from None


class _Placement:
    """Annotations on their way to images."""

    def __init__(
        self,
        annotations: Annotations,
        images: Sequence[ImagePlace],
        named: str,
        label_crs: str | None,
    ) -> None:
        self._annotations, self._images, self._label_crs = annotations, images, label_crs
        self._rows = annotations.images.to_pylist()
        self._is_map_row = [row["crs"] is not None for row in self._rows]
        # a file that names no image has a place of its own; one that cannot be used, its name
        files = {tuple(row["places"] or ()) or (row["name"],) for row in self._rows}
        self._has_many_files = len(files) > 1
        self._row_of_object = annotations.objects["image"].to_numpy()
        self._order = np.argsort(self._row_of_object, kind="stable")
        self._starts = np.searchsorted(
            self._row_of_object[self._order], np.arange(len(self._rows) + 1)
        )
        self._builder = AnnotationsBuilder()
        for category in annotations.categories:
            self._builder.add_category(category.name, category.id)
        self._builder.left_out = Counter(annotations.left_out)
        self._builder.notes = list(annotations.notes)
        self._matches = self._match_images(named)
        self._new_rows: dict[int, int] = {}
        """Index of an image → its row in the result."""
        self._origins: list[int] = []
        """Row of each row of the result in the annotations."""

    def _match_images(self, named: str) -> list[int | None]:
        """Return the index of the image that each row names; the file's name counts as one."""
        entries = {image.entry.uri: image.entry for image in self._images}
        index_of = {(image.entry.uri, image.page): i for i, image in enumerate(self._images)}
        texts = [
            [text for text in (row["uri"], row["name"], *(row["places"] or ())) if text]
            for row in self._rows
        ]
        found = find_images([*entries.values()], texts, named)
        if any(row["name"] for row in self._rows):
            self._builder.notes += [
                f"{count} images were found {rule}" for rule, count in found.rules.items()
            ]
        pages = [split_page(row["uri"] or row["name"])[1] for row in self._rows]
        return [
            None if entry is None else index_of.get((entry.uri, page))
            for entry, page in zip(found.entries, pages, strict=True)
        ]

    def list_systems(self) -> list[str]:
        """Return the coordinate systems that the label files state."""
        return sorted({row["crs"] for row in self._rows if row["crs"] is not None})

    def place(self, crs: str) -> None:
        """Place the objects of the files that state a coordinate system."""
        rows = [number for number, row in enumerate(self._rows) if row["crs"] == crs]
        targets = {row: self._list_targets(row) for row in rows}
        if self._label_crs and self._label_crs.lower() == PIXELS:
            targets = {}
        on_map = [row for row in rows if targets.get(row)]
        self._place_pixels([row for row in rows if not targets.get(row)])
        if not on_map:
            return
        objects = self._list_objects(on_map)
        shapes = _make_shapes(self._annotations.objects.take(pa.array(objects)))
        concerned = sorted({index for row in on_map for index in targets[row]})
        layout = _Layout(shapes, [self._images[index] for index in concerned])
        used = layout.choose_system(crs, self._label_crs)
        self._builder.notes.append(f"coordinates of the labels are read as {used}")
        allowed = {row: set(targets[row]) for row in on_map}
        self._place_on_map(objects, allowed, concerned, layout.place(used))

    def _list_objects(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return the objects of rows, in the order in which they are drawn."""
        some = [self._order[self._starts[row] : self._starts[row + 1]] for row in rows]
        return np.sort(np.concatenate(some))

    def _list_targets(self, row: int) -> list[int]:
        """Return the georeferenced images on which the objects of a row may lie."""
        match = self._matches[row]
        names_its_image = bool(self._rows[row]["name"]) or self._has_many_files
        if names_its_image and match is not None:
            return [match] if self._images[match].georeference else []
        if self._rows[row]["name"]:
            return []
        return [index for index, image in enumerate(self._images) if image.georeference]

    def _place_on_map(
        self,
        objects: NDArray[np.int64],
        allowed: Mapping[int, set[int]],
        concerned: Sequence[int],
        placed: _Placed,
    ) -> None:
        """Add what lies on each image, in the order in which objects are drawn."""
        met, row_of = np.zeros(len(objects), bool), self._row_of_object[objects]
        named = {index for some in allowed.values() if len(some) == 1 for index in some}
        empty = beyond = 0
        for place, index in enumerate(concerned):
            hits = [hit for hit in placed.outlines[place] if index in allowed[row_of[hit[0]]]]
            if not hits and index not in named:
                if not placed.is_within[place]:
                    beyond += 1
                    continue
                empty += 1
            first = row_of[hits[0][0]] if hits else next(r for r in allowed if index in allowed[r])
            row = self._new_row(index, int(first))
            for hit, outline in hits:
                met[hit] = True
                self._add(row, int(objects[hit]), outline)
        self._leave_out("images beyond the extent of the features: unlabelled", beyond)
        self._leave_out(_NO_NUMBER, int(placed.is_lost.sum()))
        self._leave_out(_ELSEWHERE, int((~met & ~placed.is_lost).sum()))
        if any(len(some) > 1 for some in allowed.values()):
            others = sum(image.georeference is None for image in self._images)
            self._leave_out("images without a georeference by an EPSG code: unlabelled", others)
        if empty:
            self._builder.notes.append(
                f"{empty} images without features, but within their extent: all background"
            )

    def _place_pixels(self, rows: Sequence[int]) -> None:
        """Take the coordinates of rows as pixels."""
        for row in rows:
            objects = self._list_objects([row])
            shapes = _make_shapes(self._annotations.objects.take(pa.array(objects)))
            is_upwards = False
            if self._matches[row] is not None or not self._rows[row]["name"]:
                _check_sizes(shapes)
                is_upwards = _is_upwards(shapes)
            new = self._keep_row(row)
            if is_upwards:
                note = "y runs upwards from 0 at the upper edge of an image, as in QGIS"
                self._builder.notes += [note] * (note not in self._builder.notes)
                shapes = shapely.transform(shapes, lambda points: points * [1, -1])
            for number, outline in zip(objects, shapes, strict=True):
                self._add(new, int(number), outline)

    def _keep_row(self, row: int) -> int:
        """Add the image of a row whose coordinates are pixels; return its row in the result."""
        match, given = self._matches[row], self._rows[row]
        if match is None and not given["name"]:
            match = self._find_only_image(given)
        if match is not None:
            return self._new_row(match, row)
        self._origins.append(row)
        return self._builder.add_image(
            given["name"] or next(iter(given["places"] or ()), ""),
            places=given["places"] or (),
            uri=given["uri"],
            error=given["error"],
        )

    def _find_only_image(self, given: Mapping[str, Any]) -> int | None:
        """Return the image of a file that names none, if there is only one.

        Raises:
            LabelError: There are several, and the file is the only one.
        """
        if len(self._images) == 1 and not self._has_many_files:
            return 0
        if self._has_many_files:
            return None  # the pairing reports it
        name = next(iter(given["places"] or ()), "")
        raise LabelError(
            f"its coordinates are pixels, but of which of the {len(self._images)} images? Call the "
            f"file as its image, for example {remove_suffix(self._images[0].entry.path)} instead "
            f"of {name}; a folder may hold a file for each image"
            if self._images
            else "its coordinates are pixels, but there are no images"
        )

    def _new_row(self, index: int, origin: int) -> int:
        """Return the row of an image in the result; the first one that asks is its origin."""
        if index not in self._new_rows:
            image = self._images[index]
            uri = page_uri(image.entry.uri, image.page)
            self._new_rows[index] = self._builder.add_image(image.name, uri=uri)
            self._origins.append(origin)
        return self._new_rows[index]

    def _add(self, row: int, number: int, outline: Any) -> None:
        """Add an object of the annotations to a row of the result; `outline` in its pixels."""
        objects = self._annotations.objects
        error = objects["error"][number].as_py()
        if outline is None:
            error = error or "a coordinate that is no finite number"
        self._builder.add_object(
            row,
            objects["category"][number].as_py(),
            [] if outline is None else _list_polygons(outline),
            label=objects["label"][number].as_py(),
            is_ignored=objects["is_ignored"][number].as_py(),
            error=error,
        )

    def _leave_out(self, what: str, count: int) -> None:
        if count:
            self._builder.left_out[what] += count

    def finish(self) -> PlacedAnnotations:
        """Return the result: what was placed, and the rows in pixels that stay as they are."""
        kept = [number for number, is_map in enumerate(self._is_map_row) if not is_map]
        rows = [self._name_row(number) for number in kept]
        placed = self._builder.build()
        new = np.full(len(self._rows), -1, np.int32)
        new[kept] = np.arange(len(kept)) + len(placed.images)
        objects = self._annotations.objects
        moved = objects.set_column(0, objects.schema.field(0), pa.array(new[self._row_of_object]))
        stay = moved.filter(pc.greater_equal(moved["image"], 0))
        stay_images = pa.Table.from_pylist(rows, schema=placed.images.schema)
        joined = replace(
            placed,
            images=pa.concat_tables([placed.images, stay_images]).combine_chunks(),
            objects=pa.concat_tables([placed.objects, stay]).combine_chunks(),
        )
        return PlacedAnnotations(joined, np.array([*self._origins, *kept], np.int64))

    def _name_row(self, number: int) -> dict[str, Any]:
        """Return a row in pixels with the name of its image."""
        row, match = self._rows[number], self._matches[number]
        if row["name"]:
            return row
        match = self._find_only_image(row) if match is None else match
        if match is None:
            return row | {"name": next(iter(row["places"] or ()), "")}
        image = self._images[match]
        return row | {"name": image.name, "uri": page_uri(image.entry.uri, image.page)}


class _Layout:
    """Objects of a file, in its coordinates, and the georeferenced images on which they may lie."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[ImagePlace]) -> None:
        self._shapes, self._images = shapes, images
        self._placed: dict[str, _Placed] = {}

    def place(self, crs: str) -> _Placed:
        """Return where the objects lie if their coordinates are those of a system."""
        if crs not in self._placed:
            self._placed[crs] = _Placed(self._shapes, self._images, crs)
        return self._placed[crs]

    def choose_system(self, stated: str, given: str | None) -> str:
        """Return the coordinate system of the objects.

        Args:
            stated: System that the file states, or UNSTATED.
            given: System that the user gave, if any.

        Raises:
            LabelError: Pixels are as likely, or no object lies on an image.
        """
        if given is not None:
            if len(self._shapes) and not self.place(given).num_hits:
                raise LabelError(f"{self._describe_miss(given)}; give another --label-crs")
            return given
        if not len(self._shapes):
            return stated
        fits = [PIXELS] if self._fit_as_pixels() else []
        own = sorted(
            {f"EPSG:{image.georeference.epsg}" for image in self._images if image.georeference}
        )
        if stated == UNSTATED:
            fits = [crs for crs in own if self.place(crs).num_hits] + fits
            raise LabelError(
                "it does not say in which coordinate system its coordinates are, and images are "
                f"georeferenced; give --label-crs {' or '.join(fits or ['EPSG:n', PIXELS])}"
                + (", in which features lie on images" if fits else "")
            )
        hits = self.place(stated).num_hits
        if hits and not fits:
            return stated
        if hits:
            raise LabelError(
                f"its coordinates can be read in two ways: as {stated}, in which {hits} of "
                f"{len(self._shapes)} features lie on images, or as pixels, in which all do; give "
                f"--label-crs {stated} or --label-crs pixels"
            )
        fits = [crs for crs in own if crs != stated and self.place(crs).num_hits] + fits
        raise LabelError(
            self._describe_miss(stated)
            + (f"; they do as {' or '.join(fits)}: give --label-crs {fits[0]}" if fits else "")
            + ("" if fits else "; give the system with --label-crs EPSG:n, or other images")
        )

    def _fit_as_pixels(self) -> bool:
        """Tell whether all coordinates lie in an image if they are pixels, and fill some."""
        bounds = shapely.bounds(self._shapes)
        bounds = bounds[np.isfinite(bounds).all(axis=1)]
        if not len(bounds):
            return False
        width = max(image.width for image in self._images) + 1
        height = max(image.height for image in self._images) + 1
        left, top = bounds[:, :2].min(axis=0)
        right, bottom = bounds[:, 2:].max(axis=0)
        down = top >= -1 and bottom <= height
        up = bottom <= 1 and top >= -height
        return bool(left >= -1 and right <= width and (down or up) and _has_pixels(bounds))

    def _describe_miss(self, crs: str) -> str:
        bounds = shapely.total_bounds(self._shapes)
        x, y = f"{bounds[0]:.6g} to {bounds[2]:.6g}", f"{bounds[1]:.6g} to {bounds[3]:.6g}"
        image = self._images[0]
        assert image.georeference is not None
        there = shapely.total_bounds(_outline(image)).tolist()
        return (
            f"no feature lies on an image if its coordinates (x {x}, y {y}) are {crs}; "
            f"{image.name} has x {there[0]:.6g} to {there[2]:.6g}, y {there[1]:.6g} to "
            f"{there[3]:.6g} (EPSG:{image.georeference.epsg})"
        )


class _Placed:
    """Objects on images, if their coordinates are those of a system."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[ImagePlace], crs: str) -> None:
        self._images = images
        self.is_lost = np.zeros(len(shapes), bool)
        """Objects without a place in the system of an image."""
        self.outlines: list[list[tuple[int, Any]]] = [[] for _ in images]
        """Objects on each image, by their number, and their outlines in its pixels."""
        self.is_within = [False] * len(images)
        """True for images that lie within the extent of all objects."""
        systems = [image.georeference.epsg for image in images if image.georeference]
        for epsg in sorted(set(systems)):
            some = [place for place, system in enumerate(systems) if system == epsg]
            self._place(_transform(shapes, crs, epsg), some)
        self.num_hits = len({hit for hits in self.outlines for hit, _ in hits})
        """Number of objects that lie on an image."""

    def _place(self, shapes: NDArray[Any], places: Iterable[int]) -> None:
        """Find the objects on the images of one system, in which `shapes` are."""
        bounds, sound = shapely.bounds(shapes), _are_sound(shapes)
        self.is_lost |= ~sound
        numbers = np.flatnonzero(sound)
        if not len(numbers):
            return
        tree = shapely.STRtree(shapely.box(*bounds[numbers].T))
        extent = shapely.box(*shapely.total_bounds(shapes[numbers]))
        for place in places:
            outline = _outline(self._images[place])
            self.is_within[place] = bool(shapely.covers(extent, outline))
            near = np.sort(numbers[tree.query(outline, predicate="intersects")])
            self.outlines[place] = _cut(self._images[place], near, shapes[near])


def _cut(
    image: ImagePlace, numbers: NDArray[np.int64], shapes: NDArray[Any]
) -> list[tuple[int, Any]]:
    """Return the objects that lie on an image, in its pixels; cut if they go far beyond it."""
    assert image.georeference is not None
    frame = shapely.box(0, 0, image.width, image.height)
    far = max(image.width, image.height)
    left, top, right, bottom = -far, -far, image.width + far, image.height + far
    pixels = _to_pixels(shapes, image.georeference)
    is_sound = _are_sound(pixels)
    numbers, pixels = numbers[is_sound], pixels[is_sound]
    valid, is_broken = pixels.copy(), ~shapely.is_valid(pixels)
    valid[is_broken] = shapely.make_valid(pixels[is_broken])
    is_on = shapely.area(shapely.intersection(valid, frame)) > 0
    bounds = shapely.bounds(pixels)
    is_near = (bounds[:, :2] > (left, top)).all(axis=1) & (bounds[:, 2:] < (right, bottom)).all(
        axis=1
    )
    kept = shapely.buffer(frame, _MARGIN_PX, join_style="mitre")
    return [
        (int(number), whole if near else shapely.intersection(sound, kept))
        for number, whole, sound, on, near in zip(
            numbers, pixels, valid, is_on, is_near, strict=True
        )
        if on
    ]


def _are_sound(shapes: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which shapes are there and have no coordinate that is far away, or no number.

    Bounds do not tell: holes may lie outside of their polygon.
    """
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    farthest = np.zeros(len(shapes))
    np.maximum.at(farthest, owners, np.abs(points).max(axis=1, initial=0))  # NaN stays NaN
    return ~shapely.is_missing(shapes) & (farthest <= _FARTHEST)


def _to_pixels(shapes: NDArray[Any], place: Georeference) -> NDArray[Any]:
    """Return shapes in pixels of an image; the inverse of `Georeference.to_map`.

    They are rounded, so that corners at corners of pixels come back as they were.
    """
    a, b, c, d, e, f = place.affine
    matrix, offset = np.linalg.inv(np.array([[a, b], [d, e]])), np.array([c, f])
    return shapely.transform(shapes, lambda points: ((points - offset) @ matrix.T).round(_DECIMALS))


def _outline(image: ImagePlace) -> Any:
    """Return the outline of an image in its coordinate system."""
    assert image.georeference is not None
    return image.georeference.to_map(np.array([shapely.box(0, 0, image.width, image.height)]))[0]


def _transform(shapes: NDArray[Any], crs: str, epsg: int) -> NDArray[Any]:
    """Return shapes in another coordinate system, x before y; infinite where they have no place."""
    source, target = _find_system(crs), CRS.from_epsg(epsg)
    if source == target:
        return shapes
    transform = Transformer.from_crs(source, target, always_xy=True).transform
    try:
        return shapely.transform(
            shapes, lambda points: np.column_stack(transform(points[:, 0], points[:, 1]))
        )
    except ProjError as error:
        raise LabelError(f"coordinates of {crs} cannot be transformed to EPSG:{epsg}") from error


def _check_flag(annotations: Annotations, images: Sequence[ImagePlace], label_crs: str) -> None:
    """Raise LabelError if a coordinate system that the user gave is none, or has no use."""
    _find_system(label_crs, " (--label-crs)")
    if annotations.images["crs"].null_count == len(annotations.images):
        raise LabelError(
            f"--label-crs {label_crs}, but coordinates of this form are pixels; omit the flag"
        )
    if all(image.georeference is None for image in images):
        raise LabelError(
            f"--label-crs {label_crs}, but no image is georeferenced by an EPSG code; give GeoTIFFs"
            ", or --label-crs pixels"
        )


def _find_system(crs: str, where: str = "") -> CRS:
    """Return the system of a code; raise LabelError if there is none."""
    try:
        if _CODE.fullmatch(crs.upper()):
            return CRS.from_user_input(crs.upper())
    except CRSError:
        pass
    raise LabelError(
        f"no coordinate system {crs[:60]}{where} is known; give --label-crs pixels or EPSG:n"
    )


def _make_shapes(objects: pa.Table) -> NDArray[Any]:
    """Return the outlines of objects as shapely multipolygons; None where there is none."""
    parts = objects["parts"].combine_chunks()
    rings_of = parts.offsets.to_numpy()
    flat = parts.values
    points = flat.field("points")
    ends, xy = points.offsets.to_numpy() // 2, points.values.to_numpy().reshape(-1, 2)
    is_hole = flat.field("is_hole").to_numpy(zero_copy_only=False)
    shapes = np.empty(len(objects), object)
    if not len(is_hole):
        return shapes
    ring_of = np.repeat(np.arange(len(is_hole)), np.diff(ends))
    object_of = np.repeat(np.arange(len(objects)), np.diff(rings_of))
    is_finite = np.isfinite(xy).all(axis=1)
    closed, ring_of_closed = _close(np.where(is_finite[:, None], xy, 0.0), ends)
    rings = shapely.linearrings(closed, indices=ring_of_closed)
    polygons = shapely.polygons(rings, indices=np.cumsum(~is_hole) - 1)
    shapely.multipolygons(polygons, indices=object_of[~is_hole], out=shapes)
    shapes[object_of[ring_of[~is_finite]]] = None
    return shapes


def _close(
    xy: NDArray[np.float64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the points of rings, the first one again at the end, and the ring of each point."""
    starts, stops = ends[:-1], ends[1:]
    closed = np.insert(xy, stops, xy[starts], axis=0)
    return closed, np.repeat(np.arange(len(starts)), stops - starts + 1)


def _list_polygons(outline: Any) -> list[Polygon]:
    """Return the polygons of a shapely geometry; lines and points at its edge are nothing."""
    found = []
    for part in shapely.get_parts(shapely.get_parts(outline)):
        if part.geom_type == "Polygon" and not part.is_empty:
            rings = [
                shapely.get_coordinates(ring)[:-1].ravel()
                for ring in (part.exterior, *part.interiors)
            ]
            found.append(Polygon(rings[0], rings[1:]))
    return found


def _has_pixels(bounds: NDArray[np.float64]) -> bool:
    """Tell whether a feature is as large as a pixel, from the bounds of all."""
    return bool((bounds[:, 2:] - bounds[:, :2]).max(initial=0) >= 1)


def _check_sizes(shapes: NDArray[Any]) -> None:
    """Raise LabelError if coordinates are no pixels: far away, or all within a pixel."""
    bounds = shapely.bounds(shapes)
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    if len(bounds) and np.abs(bounds).max(axis=1).min() > _MOST_PIXELS:
        raise LabelError(
            f"its coordinates (such as {bounds[0, 0]:.6g}, {bounds[0, 1]:.6g}) are those of a map, "
            "but their image is not georeferenced by an EPSG code in its own tags; world files are "
            "not read: give GeoTIFFs"
        )
    if len(bounds) and not _has_pixels(bounds):
        x, y = bounds[0, :2]
        raise LabelError(
            f"no feature is as large as a pixel (the first lies at {x:.6g}, {y:.6g}), and no image "
            "is georeferenced by an EPSG code; give GeoTIFFs, or labels in pixels"
        )


def _is_upwards(shapes: NDArray[Any]) -> bool:
    """Tell whether y runs upwards in the pixels of an image.

    Raises:
        LabelError: Some objects lie above y = 0, some below.
    """
    bounds = shapely.bounds(shapes)
    middles = (bounds[:, 1] + bounds[:, 3])[np.isfinite(bounds).all(axis=1)]
    above, below = int((middles < 0).sum()), int((middles > 0).sum())
    if above and below:
        raise LabelError(
            f"{above} features lie at negative y, as if y ran upwards from the upper edge, and "
            f"{below} at positive y, as if it ran downwards; move or delete those that lie off the "
            "image"
        )
    return above > 0
