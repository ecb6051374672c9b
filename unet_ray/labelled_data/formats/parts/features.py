"""Features of vector files: polygons with properties, one of which names the class.

GeoJSON, GeoPackage and GeoParquet files hold the same thing in three forms. Here their features
become objects: the class is chosen from the properties of all features, so that it is known only
at the end of a file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeGuard

import shapely

from unet_ray.flags import MAX_CLASS_ID
from unet_ray.image_sources.names import split_uri
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.labelled_data.annotations import NO_CATEGORY, LabelError, Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder

ONE_CLASS = "none"
"""Value of --label-property by which all features are of one class."""
THE_CLASS = "object"
"""Name of the class of features whose properties name none."""
_CLASS_PROPERTIES = (
    *("classification.name", "class_name", "classname", "class", "class_label", "classlabel"),
    *("cls", "label", "label_name", "labelname", "labels", "category", "category_name"),
    *("classification", "type", "name", "class_id", "classid", "label_id"),
    *("category_id", "type_id"),
)
"""Properties that may name the class, lower case; of several that say the same, the first."""
_OTHER_PROPERTIES = (
    *("id", "fid", "ogc_fid", "gid", "objectid", "uuid", "uid", "index", "region_id", "osm_id"),
    *("area", "shape_area", "area_m2", "perimeter", "length", "shape_leng", "shape_length"),
    *("score", "score_max", "confidence", "__index_level_0__", "level_0"),
)
"""Properties that number or measure features, unless they repeat values."""
_IMAGE_PROPERTIES = (
    *("image_uri", "image_path", "image_name", "file_name", "filename", "image", "image_id"),
)
"""Properties that name the image of a feature, in the order in which they are looked for."""
_QUPATH_STATES = ("objectType", "isLocked")
"""Properties of QuPath's objects that are no classes unless a flag says so."""
_GEOMETRIES = ("point", "line", "linestring", "polygon", "multipolygon", "rectangle", "feature")
"""Values of `type` that are no classes."""
_IGNORE = "Ignore*"
"""QuPath's class of objects that are not counted."""
_MOST_PROPERTIES = 1000
_LONGEST_NAME = 200
"""Longest name of a class (characters)."""
_FEW_VALUES = 8
"""Number of values up to which each feature may have its own."""
FILE_CRS = ""
"""Coordinate system of a feature where the file states one for all."""


@dataclass
class _Column:
    """A property: its values in the features that have it."""

    codes: dict[str | int, int] = field(default_factory=dict)
    """Value → its number, in the order in which values first occur."""
    rows: array[int] = field(default_factory=lambda: array("i"))
    values: array[int] = field(default_factory=lambda: array("i"))
    """Features that have the property, and the numbers of their values."""
    strange: str = ""
    """First value that can be no class: a fraction, a list."""

    def add(self, row: int, value: Any) -> None:
        """Note the value of a feature; empty ones are none."""
        known = _read_value(value)
        if known is None:
            return
        if isinstance(known, _Strange):
            self.strange = self.strange or known.text
            return
        self.rows.append(row)
        self.values.append(self.codes.setdefault(known, len(self.codes)))

    @property
    def can_be_class(self) -> bool:
        """True if its values are names or whole numbers."""
        return bool(self.codes) and not self.strange

    @property
    def looks_like_ids(self) -> bool:
        """True if most features have their own value."""
        return len(self.codes) > max(_FEW_VALUES, len(self.rows) // 2)

    def says_the_same(self, other: _Column) -> bool:
        """Tell whether another property divides the features in the same way."""
        return self.rows == other.rows and self.values == other.values

    def describe(self) -> str:
        """Return its values for a message."""
        shown = ", ".join(str(value)[:40] for value in [*self.codes][:3])
        more = f", … {len(self.codes)} values" if len(self.codes) > 3 else ""
        return f"({shown}{more})"


@dataclass(frozen=True)
class _Strange:
    """A value that can be no class."""

    text: str


def _read_value(value: Any) -> str | int | _Strange | None:
    if isinstance(value, str):
        text = value.strip()
        return _Strange(f"{text[:40]}…") if len(text) > _LONGEST_NAME else text or None
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return _Strange(str(type(value)) if isinstance(value, dict | list) else str(value)[:40])


@dataclass(frozen=True, slots=True)
class _Feature:
    image: int
    parts: tuple[tuple[array[float], ...], ...]
    """Rings of each polygon, the outer one first."""
    label: str
    layer: int
    error: str | None


class FeatureCollector:
    """Collects the features of a file, and makes objects of them once all are there.

    Args:
        builder: Receives images, classes, objects and counts.
        name: Path of the file. Features that name no image get one without a name, whose `places`
            hold the path without its suffix: where coordinates are pixels, it tells the image.
    """

    def __init__(self, builder: AnnotationsBuilder, name: str) -> None:
        self._builder, self._stem = builder, PurePosixPath(name).with_suffix("").as_posix()
        self._features: list[_Feature] = []
        self._columns: dict[str, _Column] = {}
        self._images: dict[tuple[str, str | None, str], int] = {}

    def add(
        self,
        label: str,
        polygons: Iterable[Sequence[Sequence[float]]],
        properties: Mapping[str, Any],
        *,
        crs: str = FILE_CRS,
        layer: int = 0,
    ) -> None:
        """Add a feature.

        Args:
            label: Its name in messages.
            polygons: Rings of each of its polygons, the outer one first; x and y in turn.
            properties: Its properties by name; those of features that hold others by `outer.inner`.
            crs: Its coordinate system.
            layer: Features of lower layers are drawn first.
        """
        error, parts = None, []
        try:
            parts = [tuple(map(_open_ring, rings)) for rings in polygons]
        except (TypeError, ValueError, OverflowError):
            error = "a coordinate that is no number"
        kept = [
            tuple(ring for place, ring in enumerate(rings) if place == 0 or len(ring) >= 6)
            for rings in parts
            if len(rings) and len(rings[0]) >= 6
        ]
        short = sum(map(len, parts)) - sum(map(len, kept))
        if short:
            self._builder.left_out["outlines of fewer than three points"] += short
        if not kept and error is None:
            return
        image = self._find_image(properties, crs)
        for name, value in properties.items():
            self._column(name).add(len(self._features), value)
        self._features.append(_Feature(image, tuple(kept), label, layer, error))

    def _column(self, name: str) -> _Column:
        if name not in self._columns and len(self._columns) == _MOST_PROPERTIES:
            raise LabelError(f"features with more than {_MOST_PROPERTIES} properties")
        return self._columns.setdefault(name, _Column())

    def _find_image(self, properties: Mapping[str, Any], crs: str) -> int:
        """Return the row of the image that a feature names, or of the one without a name."""
        for key in _IMAGE_PROPERTIES:
            value = properties.get(key)
            if is_text(value) and _is_image(value):
                return self._image(value, value if key == "image_uri" else None, crs)
        return self._image("", None, crs)

    def _image(self, name: str, uri: str | None, crs: str) -> int:
        key = name, uri, crs
        if key not in self._images:
            self._images[key] = self._builder.reserve_image()
        return self._images[key]

    def finish(
        self,
        crs: str | None,
        *,
        image_uri: str | None = None,
        class_property: str | None = None,
        is_upwards: bool = False,
    ) -> None:
        """Describe the images, choose the class, and add the objects.

        Args:
            crs: Coordinate system of the file, as `IMAGES` has it: None for pixels.
            image_uri: Image that the file names, if it does.
            class_property: Property that names the class in files of this kind, where it occurs.
            is_upwards: True if y runs upwards from 0 at the upper edge of an image, in pixels.

        Raises:
            LabelError: It is not clear which property names the class.
        """
        for (name, uri, given), row in self._images.items():
            places = [] if name or image_uri else [self._stem]
            self._builder.describe_image(
                row,
                name or image_uri or "",
                places=places,
                uri=uri or image_uri,
                crs=crs if given == FILE_CRS else given,
            )
        if not self._images:  # a file without features says that nothing is there
            places = [] if image_uri else [self._stem]
            self._builder.add_image(image_uri or "", places=places, uri=image_uri, crs=crs)
        column = self._choose_class(class_property)
        categories = self._add_categories(column)
        class_of = dict(zip(column.rows, column.values, strict=True)) if column else {}
        order = sorted(range(len(self._features)), key=lambda row: self._features[row].layer)
        for row in order:
            category = categories[class_of.get(row, -1)]
            if category == NO_CATEGORY:
                self._builder.left_out[
                    "features without a class, or to be ignored: their pixels are not counted"
                ] += 1
            self._add_object(self._features[row], category, is_upwards)

    def _add_object(self, feature: _Feature, category: int, is_upwards: bool) -> None:
        if is_upwards:
            for ring in (ring for rings in feature.parts for ring in rings):
                ring[1::2] = array("d", (-y for y in ring[1::2]))
        self._builder.add_object(
            feature.image,
            category,
            [Polygon(rings[0], rings[1:]) for rings in feature.parts],
            label=feature.label,
            is_ignored=category == NO_CATEGORY,
            error=feature.error,
        )

    def _add_categories(self, column: _Column | None) -> dict[int, int]:
        """Return the row of the category of each value; that of −1 is for features without one."""
        if column is None:
            return {-1: self._builder.find_category(THE_CLASS)}
        rows, ids = {-1: NO_CATEGORY}, self._find_ids(column)
        for value, code in column.codes.items():
            if value == _IGNORE:
                rows[code] = NO_CATEGORY
            else:
                rows[code] = self._builder.add_category(str(value), ids.get(code))
        return rows

    def _find_ids(self, column: _Column) -> dict[int, int]:
        """Return the class id of each value: itself, or that of a property that says the same."""
        same = [column, *(c for n, c in self._columns.items() if _fold(n) in _CLASS_PROPERTIES)]
        for other in same:
            are_ids = all(isinstance(v, int) and 0 <= v <= MAX_CLASS_ID for v in other.codes)
            if other.can_be_class and are_ids and other.says_the_same(column):
                return {code: int(value) for value, code in other.codes.items()}
        return {}

    def _choose_class(self, class_property: str | None) -> _Column | None:
        """Return the property that names the class; None if all features are of one class."""
        wanted = self._builder.label_property
        if wanted is not None:
            return self._find_wanted(wanted)
        if class_property in self._columns and self._columns[class_property].can_be_class:
            return self._columns[class_property]
        usable = {
            name: column
            for name, column in self._columns.items()
            if column.can_be_class and name not in _IMAGE_PROPERTIES
        }
        named = {n: c for n, c in usable.items() if _fold(n) in _CLASS_PROPERTIES}
        named = {n: c for n, c in named.items() if not _is_geometry_type(n, c)}
        if named:
            return self._choose_named(named)
        several = {n: c for n, c in usable.items() if _may_tell_apart(n, c)}
        if several:
            raise LabelError(
                f"no property that is called class, label or the like; the features have "
                f"{_describe(several)}; name the class with --label-property "
                f"{next(iter(several))}, or give --label-property {ONE_CLASS} for a single class"
            )
        texts = {
            name: column
            for name, column in usable.items()
            if name not in _QUPATH_STATES and any(isinstance(v, str) for v in column.codes)
        }
        if texts:  # in a folder, another file may have another value
            self._builder.notes.append(
                f"all features are of one class; not used: {_describe(texts)}; --label-property "
                "names the property of the class"
            )
        return None

    def _choose_named(self, named: dict[str, _Column]) -> _Column:
        order = sorted(named, key=lambda name: _CLASS_PROPERTIES.index(_fold(name)))
        order.sort(key=lambda name: all(isinstance(value, int) for value in named[name].codes))
        first = named[order[0]]
        if not all(first.says_the_same(column) for column in named.values()):
            raise LabelError(
                f"several properties may name the class: {_describe(named)}; choose one with "
                f"--label-property {order[0]}, or give --label-property {ONE_CLASS} for a single "
                "class"
            )
        if first.looks_like_ids:
            raise LabelError(
                f"the property {order[0]} has {len(first.codes)} values in {len(first.rows)} "
                f"features: names of classes, or of single objects? Give --label-property "
                f"{order[0]} for the first, --label-property {ONE_CLASS} for a single class"
            )
        others = [name for name in order[1:] if not _fold(name).endswith("id")]
        if others:  # in a folder, they may differ in another file
            self._builder.notes.append(
                f"the property {order[0]} names the class; {', '.join(others)} would say the same"
            )
        return first

    def _find_wanted(self, wanted: str) -> _Column | None:
        names = [n for n in self._columns if n == wanted] or [
            n for n in self._columns if _fold(n) == _fold(wanted)
        ]
        if not names and _fold(wanted) == ONE_CLASS:
            return None
        if len(names) != 1:
            if not self._features:
                return None
            there = _describe(self._columns) or "none at all"
            raise LabelError(f"no property {wanted} (--label-property); there are {there}")
        column = self._columns[names[0]]
        if column.strange:
            raise LabelError(
                f"the property {names[0]} (--label-property) has the value {column.strange}, which "
                "is neither a name nor a whole number"
            )
        return column


def list_polygons(geometry: Any, builder: AnnotationsBuilder) -> list[list[Sequence[float]]]:
    """Return the rings of each polygon of a geometry; count what is none.

    Args:
        geometry: A shapely geometry, or None where it could not be read.
        builder: Receives the counts.
    """
    if geometry is None:
        builder.left_out["features with a geometry that cannot be read, such as curves"] += 1
        return []
    if geometry.is_empty:
        builder.left_out["features without a geometry"] += 1
        return []
    polygons, rest = [], [geometry]
    while rest:
        part = rest.pop(0)
        if part.geom_type == "Polygon":
            rings = [part.exterior, *part.interiors]
            polygons.append([shapely.get_coordinates(ring).ravel() for ring in rings])
        elif part.geom_type in ("MultiPolygon", "GeometryCollection"):
            rest[:0] = list(part.geoms)
        else:
            count_other(part.geom_type, builder)
    return polygons


def count_other(kind: str, builder: AnnotationsBuilder) -> None:
    """Count a geometry that is no polygon."""
    builder.left_out["points" if "Point" in kind else "lines"] += 1


def is_text(value: Any) -> TypeGuard[str]:
    """Tell whether a value is text that is not empty and can be written."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:  # half a character, which JSON can hold
        return False


def _open_ring(ring: Sequence[float]) -> array[float]:
    """Return a ring without the repetition of its first point at the end."""
    points = array("d", ring)
    return points[:-2] if len(points) > 2 and points[:2] == points[-2:] else points


def _is_image(text: str) -> bool:
    return PurePosixPath(split_uri(text)[0].replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _is_geometry_type(name: str, column: _Column) -> bool:
    values = (str(value).lower() for value in column.codes)
    return _fold(name) == "type" and all(value in _GEOMETRIES for value in values)


def _may_tell_apart(name: str, column: _Column) -> bool:
    """Tell whether a property that is not known may be a class: it has several values."""
    numbers = _fold(name) in _OTHER_PROPERTIES and len(column.codes) == len(column.rows)
    return len(column.codes) > 1 and not numbers


def _fold(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _describe(columns: Mapping[str, _Column]) -> str:
    shown = [f"{name[:40]} {columns[name].describe()}" for name in [*columns][:8]]
    return ", ".join(shown) + (", …" if len(columns) > 8 else "")
