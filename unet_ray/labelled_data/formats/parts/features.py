"""Features of vector files: polygons with properties, one of which names the class.

GeoJSON, GeoPackage and GeoParquet files hold the same content in three formats. Here their features
become objects. The property that names the class is chosen by its values in all features, so
classes are known only at the end of a file.
"""

from __future__ import annotations

import math
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
from unet_ray.text import is_utf8

ONE_CLASS = "none"
"""Value of --label-property for features that are all of one class."""
THE_CLASS = "object"
"""Name of the class of features whose properties do not name one."""
_CLASS_PROPERTIES = (
    *("classification.name", "class_name", "classname", "class", "class_label", "classlabel"),
    *("cls", "label", "label_name", "labelname", "labels", "category", "category_name"),
    *("classification", "type", "name", "class_id", "classid", "label_id"),
    *("category_id", "type_id"),
)
"""Properties that may name the class, lower case; if several are equivalent, the first counts."""
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
"""Properties of QuPath's objects that are not classes unless a flag says so."""
_GEOMETRIES = ("point", "line", "linestring", "polygon", "multipolygon", "rectangle", "feature")
"""Values of `type` that are not classes."""
_IGNORE = "Ignore*"
"""QuPath's class of objects that are not counted."""
_MOST_PROPERTIES = 1000
_LONGEST_NAME = 200
"""Longest name of a class (characters)."""
_FEW_VALUES = 8
"""Largest number of values of a property that are never taken for ids of features."""
FILE_CRS = ""
"""Stands for the coordinate system that the file states for all features."""


@dataclass
class _Column:
    """A property: its values in the features that have it."""

    codes: dict[str | int, int] = field(default_factory=dict)
    """Value → its number, in the order in which values first occur."""
    rows: array[int] = field(default_factory=lambda: array("i"))
    values: array[int] = field(default_factory=lambda: array("i"))
    """Features that have the property, and the numbers of their values."""
    strange: str = ""
    """First value that cannot be a class: a fraction, a list."""

    def add(self, row: int, value: object) -> None:
        """Add the value of a feature, unless it is empty."""
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
    def has_ids(self) -> bool:
        """True if all values can be ids of classes."""
        return all(isinstance(value, int) and 0 <= value <= MAX_CLASS_ID for value in self.codes)

    @property
    def has_texts(self) -> bool:
        """True if some values are texts."""
        return any(isinstance(value, str) for value in self.codes)

    @property
    def looks_like_ids(self) -> bool:
        """True if most features have a value of their own."""
        return len(self.codes) > max(_FEW_VALUES, len(self.rows) // 2)

    def says_the_same(self, other: _Column) -> bool:
        """Tell whether another property divides the features in the same way."""
        return self.rows == other.rows and self.values == other.values

    def describe(self) -> str:
        """Return its values for a message."""
        shown = [str(value)[:40] for value in [*self.codes][:3]]
        if len(self.codes) > 3:
            shown.append(f"… {len(self.codes)} values")
        return f"({', '.join(shown)})"


@dataclass(frozen=True)
class _Strange:
    """A value that cannot be a class."""

    text: str
    """Text that stands for it in messages."""


def _read_value(value: object) -> str | int | _Strange | None:
    """Return the value of a property as a class; None if it is empty."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _LONGEST_NAME:
            return _Strange(f"{text[:40]}…")
        return text or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, dict | list):
        return _Strange(str(type(value)))
    return _Strange(str(value)[:40])


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature whose class is not known yet."""

    image: int
    """Row of its image."""
    parts: tuple[tuple[array[float], ...], ...]
    """Rings of each polygon, the outer one first."""
    label: str
    """Its name in messages."""
    layer: int
    """Features of lower layers are drawn first."""
    error: str | None
    """Why it cannot be drawn."""


class FeatureCollector:
    """Collects the features of a file, and turns them into objects when all are known.

    Args:
        builder: Receives images, classes, objects and counts.
        name: Path of the file. Features that do not name an image get one without a name, whose
            `places` hold the path without its suffix. If coordinates are pixels, that path
            identifies the image.
    """

    def __init__(self, builder: AnnotationsBuilder, name: str) -> None:
        self._builder = builder
        self._stem = PurePosixPath(name).with_suffix("").as_posix()
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
            properties: Its properties by name; a nested one is named `outer.inner`.
            crs: Its coordinate system.
            layer: Features of lower layers are drawn first.
        """
        error = None
        parts: list[list[array[float]]] = []
        try:
            for rings in polygons:
                parts.append([_open_ring(ring) for ring in rings])
        except (TypeError, ValueError, OverflowError):
            parts, error = [], "a coordinate is not a number"
        kept: list[tuple[array[float], ...]] = []
        for rings in parts:
            if rings and len(rings[0]) >= 6:
                holes = [ring for ring in rings[1:] if len(ring) >= 6]
                kept.append((rings[0], *holes))
        num_short = sum(map(len, parts)) - sum(map(len, kept))
        if num_short:
            self._builder.left_out["outlines of fewer than three points"] += num_short
        if not kept and error is None:
            return
        feature = _Feature(
            image=self._find_image(properties, crs),
            parts=tuple(kept),
            label=label,
            layer=layer,
            error=error,
        )
        for property_name, value in properties.items():
            if property_name not in self._columns:
                if len(self._columns) == _MOST_PROPERTIES:
                    raise LabelError(f"its features have more than {_MOST_PROPERTIES} properties")
                self._columns[property_name] = _Column()
            self._columns[property_name].add(len(self._features), value)
        self._features.append(feature)

    def _find_image(self, properties: Mapping[str, Any], crs: str) -> int:
        """Return the row of the image that a feature names, or of the one without a name."""
        name, uri = "", None
        for key in _IMAGE_PROPERTIES:
            value = properties.get(key)
            if not is_text(value):
                continue
            path = split_uri(value)[0].replace("\\", "/")
            if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                name, uri = value, value if key == "image_uri" else None
                break
        image = name, uri, crs
        if image not in self._images:
            self._images[image] = self._builder.reserve_image()
        return self._images[image]

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
            class_property: Property that names the class in files of this kind, if it occurs.
            is_upwards: True if y is in pixels and increases upwards from 0 at the upper edge.

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
        if not self._images:  # a file without features means that its image has no objects
            places = [] if image_uri else [self._stem]
            self._builder.add_image(image_uri or "", places=places, uri=image_uri, crs=crs)
        column = self._choose_class(class_property)
        categories = self._add_categories(column)
        class_of = dict(zip(column.rows, column.values, strict=True)) if column else {}
        order = sorted(range(len(self._features)), key=lambda row: self._features[row].layer)
        for row in order:
            category = categories[class_of.get(row, -1)]
            if category == NO_CATEGORY:
                what = "features without a class, or to be ignored: their pixels are not counted"
                self._builder.left_out[what] += 1
            self._add_object(self._features[row], category, is_upwards)

    def _add_object(self, feature: _Feature, category: int, is_upwards: bool) -> None:
        if is_upwards:
            for rings in feature.parts:
                for ring in rings:
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
        """Return number of a value → row of its category; -1 stands for features without a value.

        Args:
            column: Property that names the class; None if all features belong to one class.
        """
        if column is None:
            return {-1: self._builder.find_category(THE_CLASS)}
        rows = {-1: NO_CATEGORY}
        ids = self._find_ids(column)
        for value, code in column.codes.items():
            if value == _IGNORE:
                rows[code] = NO_CATEGORY
            else:
                rows[code] = self._builder.add_category(str(value), ids.get(code))
        return rows

    def _find_ids(self, column: _Column) -> dict[int, int]:
        """Return number of a value → class id; empty if there are no ids.

        The id is the value itself, or the value of an equivalent property.
        """
        candidates = [column]
        for name, other in self._columns.items():
            if _fold(name) in _CLASS_PROPERTIES:
                candidates.append(other)
        for other in candidates:
            if other.can_be_class and other.has_ids and other.says_the_same(column):
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
        named = {
            name: column
            for name, column in usable.items()
            if _fold(name) in _CLASS_PROPERTIES and not _is_geometry_type(name, column)
        }
        if named:
            return self._choose_named(named)
        several = {name: column for name, column in usable.items() if _may_tell_apart(name, column)}
        if several:
            raise LabelError(
                f"no property is called class, label or the like; the features have "
                f"{_describe(several)}; name the class with --label-property "
                f"{next(iter(several))}, or give --label-property {ONE_CLASS} for a single class"
            )
        texts = {
            name: column
            for name, column in usable.items()
            if name not in _QUPATH_STATES and column.has_texts
        }
        if texts:  # another file of the folder may have other values
            self._builder.notes.append(
                f"all features belong to one class; not used: {_describe(texts)}; --label-property "
                "names the property of the class"
            )
        return None

    def _choose_named(self, named: dict[str, _Column]) -> _Column:
        """Return the property that names the class, among those with a usual name."""
        order = sorted(named, key=lambda name: _CLASS_PROPERTIES.index(_fold(name)))
        order.sort(key=lambda name: not named[name].has_texts)  # numbers come last
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
                f"features, which may name classes or single objects; give --label-property "
                f"{order[0]} if they name classes, --label-property {ONE_CLASS} for a single class"
            )
        others = [name for name in order[1:] if not _fold(name).endswith("id")]
        if others:  # in another file of the folder, they may differ
            self._builder.notes.append(
                f"the property {order[0]} names the class; {', '.join(others)} would give the same"
            )
        return first

    def _find_wanted(self, wanted: str) -> _Column | None:
        """Return the property of --label-property; None if all features are of one class."""
        names = [name for name in self._columns if _fold(name) == _fold(wanted)]
        if wanted in self._columns:
            names = [wanted]
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


def list_polygons(
    geometry: shapely.Geometry | None, builder: AnnotationsBuilder
) -> list[list[Sequence[float]]]:
    """Return the rings of each polygon of a geometry; count other shapes.

    Args:
        geometry: The geometry; None if it could not be read.
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
    """Count a geometry that is not a polygon."""
    builder.left_out["points" if "Point" in kind else "lines"] += 1


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that is not empty and can be written as UTF-8."""
    return isinstance(value, str) and bool(value) and is_utf8(value)


def _open_ring(ring: Sequence[float]) -> array[float]:
    """Return a ring without the repetition of its first point at the end."""
    points = array("d", ring)
    is_closed = len(points) > 2 and points[:2] == points[-2:]
    return points[:-2] if is_closed else points


def _is_geometry_type(name: str, column: _Column) -> bool:
    """Tell whether a property is the type of geometries rather than of objects."""
    if _fold(name) != "type":
        return False
    return all(str(value).lower() in _GEOMETRIES for value in column.codes)


def _may_tell_apart(name: str, column: _Column) -> bool:
    """Tell whether a property without a usual name may be the class, as it has several values."""
    has_own_values = len(column.codes) == len(column.rows)
    is_number = _fold(name) in _OTHER_PROPERTIES and has_own_values
    return len(column.codes) > 1 and not is_number


def _fold(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _describe(columns: Mapping[str, _Column]) -> str:
    shown = []
    for name in [*columns][:8]:
        shown.append(f"{name[:40]} {columns[name].describe()}")
    if len(columns) > 8:
        shown.append("…")
    return ", ".join(shown)
