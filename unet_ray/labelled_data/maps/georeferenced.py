"""Placing of the objects of vector files (GeoJSON, GeoPackage, GeoParquet) on images, in pixels.

Such a file states its coordinate system, but rarely the image to which it belongs. A georeferenced
image has a position in such a system, so objects can be assigned to images: they are transformed to
the system of the image and to its pixels, and cut if they extend far beyond it. Without
georeferenced images the coordinates are pixels.

    objects in EPSG:4326 ──pyproj──> EPSG:32633 ──inverse affine──> pixels of each image they meet
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from unet_ray.errors import InputError, one_line
from unet_ray.image_sources.names import image_uri, split_uri
from unet_ray.labelled_data.annotations import Annotations, LabelError, Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.maps.image_places import LocatedImage
from unet_ray.labelled_data.maps.map_layout import (
    PIXELS,
    Layout,
    ObjectsOnImages,
    find_system,
    has_pixels,
    make_shapes,
)
from unet_ray.labelled_data.pairing.affixes import remove_suffix
from unet_ray.labelled_data.pairing.image_names import find_images

_MOST_PIXELS = 10**6
"""Upper limit of coordinates in an image (px); slides have up to about 200,000."""
_ELSEWHERE = "features that lie on no image"
_NO_NUMBER = "features with coordinates that are not numbers, or have no place in an image's system"


@dataclass(frozen=True)
class PlacedAnnotations:
    """Annotations in pixels, and the rows that they come from."""

    annotations: Annotations
    origins: NDArray[np.int64]
    """Row that each of their images had before; the first one if there were several."""


def needs_places(annotations: Annotations) -> bool:
    """Tell whether annotations need `place_on_images`.

    They do not if each image has a name and coordinates in pixels.
    """
    images = annotations.images
    unnamed = pc.any(pc.equal(images["name"], ""), min_count=0).as_py()
    return bool(unnamed) or images["crs"].null_count < len(images)


def place_on_images(
    annotations: Annotations,
    images: Sequence[LocatedImage],
    named: str,
    label_crs: str | None = None,
) -> PlacedAnnotations:
    """Place objects, whose coordinates may be map coordinates, on the images of a listing.

    If no image is georeferenced, coordinates are pixels; y may increase upwards, as in QGIS, where
    an image without a georeference lies between y = 0 and minus its height.

    If images are georeferenced, coordinates are in the system that the label file states, and
    objects whose file names no image go to all images that they meet. An image without objects is
    all background if it lies within the extent of the objects; beyond it, it is unlabelled and left
    out. If several files name no image, each belongs to the image of the same name, if there is
    one.

    Args:
        annotations: Annotations; images in pixels that have a name stay as they are.
        images: Images of the listing (`image_places.locate_images`).
        named: Flag and URI of the label files, for messages.
        label_crs: `pixels` or AUTHORITY:CODE, if the user gave the coordinate system.

    Returns:
        Annotations whose images all have a name and coordinates in pixels.

    Raises:
        InputError: Coordinates are ambiguous or have no meaning; the text names the flag.
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
        raise InputError(f"{named}: outlines cannot be cut: {one_line(error)}") from None


class _Placement:
    """Annotations on their way to images."""

    def __init__(
        self,
        annotations: Annotations,
        images: Sequence[LocatedImage],
        named: str,
        label_crs: str | None,
    ) -> None:
        self._annotations = annotations
        self._images = images
        self._label_crs = label_crs
        self._rows = annotations.images.to_pylist()
        # a file without image names is identified by its places; an unusable one, by its name
        files = set[tuple[str, ...]]()
        for row in self._rows:
            files.add(tuple(row["places"] or (row["name"],)))
        self._has_many_files = len(files) > 1
        self._row_of_object = annotations.objects["image"].to_numpy()
        self._builder = AnnotationsBuilder()
        for category in annotations.categories:
            self._builder.add_category(category.name, category.id)
        self._builder.left_out = Counter(annotations.left_out)
        self._builder.notes = list(annotations.notes)
        self._matches = self._match_images(named)
        self._new_rows: dict[int, int] = {}
        """Index of an image → its row in the result."""
        self._origins: list[int] = []
        """Row in the annotations that each row of the result comes from."""

    def _match_images(self, named: str) -> list[int | None]:
        """Return the index of the image that each row, or the name of its file, identifies."""
        entries = {image.entry.uri: image.entry for image in self._images}
        index_of = {}
        for index, image in enumerate(self._images):
            index_of[image.entry.uri, image.key] = index
        texts = []
        for row in self._rows:
            own = (row["uri"], row["name"], *(row["places"] or ()))
            texts.append([text for text in own if text])
        found = find_images([*entries.values()], texts, named)
        if any(row["name"] for row in self._rows):
            for rule, count in found.rules.items():
                self._builder.notes.append(f"{count} images were found {rule}")
        matches = list[int | None]()
        for row, entry in zip(self._rows, found.entries, strict=True):
            _, key = split_uri(row["uri"] or row["name"])
            matches.append(index_of.get((entry.uri, key)) if entry else None)
        return matches

    def list_systems(self) -> list[str]:
        """Return the coordinate systems that the label files state."""
        return sorted({row["crs"] for row in self._rows if row["crs"] is not None})

    def place(self, crs: str) -> None:
        """Place the objects of the files that state a coordinate system."""
        rows = [number for number, row in enumerate(self._rows) if row["crs"] == crs]
        allowed: dict[int, set[int]] = {}
        for row in rows:
            targets = self._find_targets(row)
            if targets:
                allowed[row] = targets
        self._place_pixels([row for row in rows if row not in allowed])
        if not allowed:
            return
        objects = self._list_objects([*allowed])
        shapes = make_shapes(self._annotations.objects.take(pa.array(objects)))
        concerned = sorted(set[int]().union(*allowed.values()))
        layout = Layout(shapes, [self._images[index] for index in concerned])
        used = layout.choose_system(crs, self._label_crs)
        if len(objects):
            self._builder.notes.append(f"coordinates of the labels are read as {used}")
        self._place_on_map(objects, allowed, concerned, layout.place(used))

    def _list_objects(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return the objects of rows, in the order in which they are drawn."""
        of_rows = [self._annotations.rows_of(row) for row in rows]
        return np.sort(np.concatenate(of_rows))

    def _find_targets(self, row: int) -> set[int]:
        """Return the georeferenced images on which the objects of a row may lie."""
        if self._label_crs and self._label_crs.lower() == PIXELS:
            return set()
        match = self._matches[row]
        has_name = bool(self._rows[row]["name"])
        if match is not None and (has_name or self._has_many_files):
            return {match} if self._images[match].georeference else set()
        if has_name:
            return set()
        return {index for index, image in enumerate(self._images) if image.georeference}

    def _place_on_map(
        self,
        objects: NDArray[np.int64],
        allowed: Mapping[int, set[int]],
        concerned: Sequence[int],
        placed: ObjectsOnImages,
    ) -> None:
        """Add the objects on each image, in the order in which they are drawn.

        Args:
            objects: Rows of the objects.
            allowed: Row of annotations → images on which its objects may lie.
            concerned: All images in `allowed`, in order.
            placed: Objects on the images concerned.
        """
        is_met = np.zeros(len(objects), bool)
        row_of = self._row_of_object[objects]
        named = set[int]()
        for targets in allowed.values():
            if len(targets) == 1:
                named |= targets
        num_empty = num_beyond = 0
        for place, index in enumerate(concerned):
            hits = [hit for hit in placed.outlines[place] if index in allowed[row_of[hit[0]]]]
            if not hits and index not in named:
                if not placed.is_within[place]:
                    num_beyond += 1
                    continue
                num_empty += 1
            if hits:
                origin = int(row_of[hits[0][0]])
            else:
                origin = next(row for row, targets in allowed.items() if index in targets)
            new_row = self._new_row(index, origin)
            for hit, outline in hits:
                is_met[hit] = True
                self._add(new_row, int(objects[hit]), outline)
        self._leave_out("images beyond the extent of the features: unlabelled", num_beyond)
        self._leave_out(_NO_NUMBER, int(placed.is_lost.sum()))
        self._leave_out(_ELSEWHERE, int((~is_met & ~placed.is_lost).sum()))
        if any(len(targets) > 1 for targets in allowed.values()):
            num_others = sum(image.georeference is None for image in self._images)
            self._leave_out("images without a georeference by an EPSG code: unlabelled", num_others)
        if num_empty:
            self._builder.notes.append(
                f"{num_empty} images without features, but within their extent: all background"
            )

    def _place_pixels(self, rows: Sequence[int]) -> None:
        """Take the coordinates of rows as pixels."""
        for row in rows:
            objects = self._list_objects([row])
            shapes = make_shapes(self._annotations.objects.take(pa.array(objects)))
            is_upwards = False
            if self._matches[row] is not None or not self._rows[row]["name"]:
                _check_sizes(shapes)
                is_upwards = _is_upwards(shapes)
            new_row = self._keep_row(row)
            if is_upwards:
                note = "y runs upwards from 0 at the upper edge of an image, as in QGIS"
                if note not in self._builder.notes:
                    self._builder.notes.append(note)
                shapes = shapely.transform(shapes, lambda points: points * [1, -1])
            for number, outline in zip(objects, shapes, strict=True):
                self._add(new_row, int(number), outline)

    def _keep_row(self, row: int) -> int:
        """Add the image of a row whose coordinates are pixels; return its row in the result."""
        match, given = self._matches[row], self._rows[row]
        if match is None and not given["name"]:
            match = self._find_only_image(given)
        if match is not None:
            return self._new_row(match, row)
        self._origins.append(row)
        return self._builder.add_image(
            given["name"] or _first_place(given),
            places=given["places"] or (),
            uri=given["uri"],
            error=given["error"],
        )

    def _find_only_image(self, given: Mapping[str, Any]) -> int | None:
        """Return the only image for the only file, if that file names none.

        Raises:
            LabelError: There are several images, or none, for the only file.
        """
        if self._has_many_files:
            return None  # the pairing reports it
        if len(self._images) == 1:
            return 0
        if not self._images:
            raise LabelError("its coordinates are pixels, but there are no images")
        example = remove_suffix(self._images[0].entry.path)
        raise LabelError(
            f"its coordinates are pixels, but it does not say of which of the {len(self._images)} "
            f"images; name the file after its image, for example {example} instead of "
            f"{_first_place(given)}; a folder may hold a file for each image"
        )

    def _new_row(self, index: int, origin: int) -> int:
        """Return the row of an image in the result; add it, with its origin, if it has none."""
        if index not in self._new_rows:
            image = self._images[index]
            uri = image_uri(image.entry.uri, image.key)
            self._new_rows[index] = self._builder.add_image(image.name, uri=uri)
            self._origins.append(origin)
        return self._new_rows[index]

    def _add(self, row: int, number: int, outline: shapely.Geometry | None) -> None:
        """Add an object of the annotations to a row of the result; `outline` in its pixels."""
        objects = self._annotations.objects
        error = objects["error"][number].as_py()
        polygons = []
        if outline is None:
            error = error or "a coordinate is not a finite number"
        else:
            polygons = _list_polygons(outline)
        self._builder.add_object(
            row,
            objects["category"][number].as_py(),
            polygons,
            label=objects["label"][number].as_py(),
            is_ignored=objects["is_ignored"][number].as_py(),
            error=error,
        )

    def _leave_out(self, what: str, count: int) -> None:
        if count:
            self._builder.left_out[what] += count

    def finish(self) -> PlacedAnnotations:
        """Return the result: the objects that were placed, then the rows that were in pixels."""
        kept = [number for number, row in enumerate(self._rows) if row["crs"] is None]
        kept_rows = [self._name_row(number) for number in kept]
        placed = self._builder.build()
        kept_images = pa.Table.from_pylist(kept_rows, schema=placed.images.schema)
        new_row = np.full(len(self._rows), -1, np.int32)
        new_row[kept] = np.arange(len(kept)) + len(placed.images)
        objects = self._annotations.objects
        image_rows = pa.array(new_row[self._row_of_object])
        moved = objects.set_column(0, objects.schema.field(0), image_rows)
        kept_objects = moved.filter(pc.greater_equal(moved["image"], 0))
        joined = replace(
            placed,
            images=pa.concat_tables([placed.images, kept_images]).combine_chunks(),
            objects=pa.concat_tables([placed.objects, kept_objects]).combine_chunks(),
        )
        return PlacedAnnotations(joined, np.array([*self._origins, *kept], np.int64))

    def _name_row(self, number: int) -> dict[str, Any]:
        """Return a row in pixels with the name of its image."""
        row, match = self._rows[number], self._matches[number]
        if row["name"]:
            return row
        if match is None:
            match = self._find_only_image(row)
        if match is None:
            return row | {"name": _first_place(row)}
        image = self._images[match]
        return row | {"name": image.name, "uri": image_uri(image.entry.uri, image.key)}


def _first_place(row: Mapping[str, Any]) -> str:
    """Return the first text that may identify the image of a row; empty if there is none."""
    return row["places"][0] if row["places"] else ""


def _check_flag(annotations: Annotations, images: Sequence[LocatedImage], label_crs: str) -> None:
    """Raise LabelError if the coordinate system of --label-crs does not exist or does not apply."""
    find_system(label_crs, " (--label-crs)")
    if annotations.images["crs"].null_count == len(annotations.images):
        raise LabelError(
            f"--label-crs {label_crs}: coordinates in this format are pixels; omit the flag"
        )
    if all(image.georeference is None for image in images):
        raise LabelError(
            f"--label-crs {label_crs}: no image is georeferenced by an EPSG code; give GeoTIFFs"
            ", or --label-crs pixels"
        )


def _list_polygons(outline: shapely.Geometry) -> list[Polygon]:
    """Return the polygons of a geometry, without lines and points left by cutting."""
    found = []
    for part in shapely.get_parts(shapely.get_parts(outline)):
        if part.geom_type != "Polygon" or part.is_empty:
            continue
        outer = shapely.get_coordinates(part.exterior)[:-1].ravel()
        holes = [shapely.get_coordinates(ring)[:-1].ravel() for ring in part.interiors]
        found.append(Polygon(outer, holes))
    return found


def _check_sizes(shapes: NDArray[Any]) -> None:
    """Raise LabelError if coordinates cannot be pixels: far away, or all within one pixel."""
    bounds = shapely.bounds(shapes)
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    if len(bounds) and np.abs(bounds).max(axis=1).min() > _MOST_PIXELS:
        raise LabelError(
            f"its coordinates (such as {bounds[0, 0]:.6g}, {bounds[0, 1]:.6g}) are those of a map, "
            "but their image is not georeferenced by an EPSG code in its own tags; world files are "
            "not read: give GeoTIFFs"
        )
    if len(bounds) and not has_pixels(bounds):
        x, y = bounds[0, :2]
        raise LabelError(
            f"no feature is as large as a pixel (the first lies at {x:.6g}, {y:.6g}), and no image "
            "is georeferenced by an EPSG code; give GeoTIFFs, or labels in pixels"
        )


def _is_upwards(shapes: NDArray[Any]) -> bool:
    """Tell whether pixel coordinates have y increasing upwards.

    Raises:
        LabelError: Some objects lie above y = 0, some below.
    """
    bounds = shapely.bounds(shapes)
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    middles = bounds[:, 1] + bounds[:, 3]
    num_negative = int((middles < 0).sum())
    num_positive = int((middles > 0).sum())
    if num_negative and num_positive:
        raise LabelError(
            f"{num_negative} features lie at negative y, as if y ran upwards from the upper edge, "
            f"and {num_positive} at positive y, as if it ran downwards; move or delete those that "
            "lie off the image"
        )
    return num_negative > 0
