"""Objects of vector files (GeoJSON, GeoPackage, GeoParquet) are placed on images, in pixels.

Such a file says in which coordinate system it is, and seldom of which image it is. A georeferenced
image has a place in one, so that objects find their images: they are transformed to the image's
system and to its pixels, and cut where they go far beyond it. Without georeferenced images the
coordinates are pixels.

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
"""Coordinate beyond which no image reaches (px); slides have up to some 200,000."""
_ELSEWHERE = "features that lie on no image"
_NO_NUMBER = "features with coordinates that are no numbers, or have no place in an image's system"


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


def place_on_images(
    annotations: Annotations,
    images: Sequence[LocatedImage],
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
        images: Images of the listing (`image_places.locate_images`).
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
        images: Sequence[LocatedImage],
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
        index_of = {(image.entry.uri, image.key): i for i, image in enumerate(self._images)}
        texts = [
            [text for text in (row["uri"], row["name"], *(row["places"] or ())) if text]
            for row in self._rows
        ]
        found = find_images([*entries.values()], texts, named)
        if any(row["name"] for row in self._rows):
            self._builder.notes += [
                f"{count} images were found {rule}" for rule, count in found.rules.items()
            ]
        keys = [split_uri(row["uri"] or row["name"])[1] for row in self._rows]
        return [
            None if entry is None else index_of.get((entry.uri, key))
            for entry, key in zip(found.entries, keys, strict=True)
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
        shapes = make_shapes(self._annotations.objects.take(pa.array(objects)))
        concerned = sorted({index for row in on_map for index in targets[row]})
        layout = Layout(shapes, [self._images[index] for index in concerned])
        used = layout.choose_system(crs, self._label_crs)
        if len(objects):
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
        placed: ObjectsOnImages,
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
            shapes = make_shapes(self._annotations.objects.take(pa.array(objects)))
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
            uri = image_uri(image.entry.uri, image.key)
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
        return row | {"name": image.name, "uri": image_uri(image.entry.uri, image.key)}


def _check_flag(annotations: Annotations, images: Sequence[LocatedImage], label_crs: str) -> None:
    """Raise LabelError if a coordinate system that the user gave is none, or has no use."""
    find_system(label_crs, " (--label-crs)")
    if annotations.images["crs"].null_count == len(annotations.images):
        raise LabelError(
            f"--label-crs {label_crs}, but coordinates of this form are pixels; omit the flag"
        )
    if all(image.georeference is None for image in images):
        raise LabelError(
            f"--label-crs {label_crs}, but no image is georeferenced by an EPSG code; give GeoTIFFs"
            ", or --label-crs pixels"
        )


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
    if len(bounds) and not has_pixels(bounds):
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
