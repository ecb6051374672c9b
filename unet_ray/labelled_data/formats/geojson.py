"""GeoJSON (RFC 7946, or 2008 with its `crs`), as GIS tools, QuPath and our own export write it.

A file is a feature collection, a feature, a geometry, a list of features (QuPath 0.2), or one of
these per line (GeoJSON text sequences, RFC 8142, with or without record separators).

QuPath's objects are in pixels. Each has a kind (`objectType`; `id` in version 0.2) and a class
(`classification`, with the name or the names of its parts).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import PurePosixPath
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import UNSTATED, LabelError
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.features import FeatureCollector, count_other, is_text
from unet_ray.labelled_data.formats.parts.json_stream import Element, read_elements

WGS_84 = "EPSG:4326"
"""Coordinate system of a GeoJSON file that states none (RFC 7946)."""
_SEQUENCES = (".geojsonl", ".geojsons", ".geojsonseq", ".ndjson", ".jsonl")
_TYPE = re.compile(rb'"type"\s*:\s*"(Feature|FeatureCollection|(Multi)?Polygon)"')
_SEPARATOR = b"\x1e"
"""Record separator of GeoJSON text sequences."""
_LONGEST_LINE = 2**27
_ROOT_KEYS = ("type", "crs", "image_uri", "id", "geometry", "nucleusGeometry", "properties")
_CODE = re.compile(r"(?:urn:(?:x-)?ogc:def:crs:|.*/def/crs/)?(\w+)(?::|/)(?:[\w.]*(?::|/))?(\w+)")
"""Names of coordinate systems: EPSG:32633, urn:ogc:def:crs:EPSG::32633, a URL of opengis.net."""
_QUPATH_KINDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
}
"""Kinds of QuPath's objects: the `id` of version 0.2 → the `objectType` of later ones."""
_QUPATH_CLASS = "classification.name"


def _recognises(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n\x1e")[:1]
    return start in (b"{", b"[") and _TYPE.search(head) is not None


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    parser = _Parser(builder, name)
    if _is_sequence(file, name):
        for where, value in _read_records(file):
            parser.take_value(where, value)
    else:
        for element in read_elements(file):
            parser.take(element)
    parser.finish()


def _is_sequence(file: BufferedReader, name: str) -> bool:
    """Tell whether a file holds a value per line, by its suffix or by its first two lines."""
    head = file.peek()
    if PurePosixPath(name).suffix.lower() in _SEQUENCES or head.startswith(_SEPARATOR):
        return True
    first, _, rest = head.partition(b"\n")
    if not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _read_records(file: BufferedReader) -> Iterator[tuple[str, Any]]:
    """Yield place and value of each record.

    A record is a line or, if records begin with separators, all lines up to the next separator.
    """
    number, start, held = 0, 1, b""
    is_separated = file.peek().startswith(_SEPARATOR)
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(held) + len(line) > _LONGEST_LINE:
            raise LabelError(f"line {number}: a record has more than {_LONGEST_LINE} bytes")
        if is_separated and not line.startswith(_SEPARATOR):
            held += line
            continue
        yield from _read_record(start, held)
        held, start = line, number
    yield from _read_record(start, held)


def _read_record(line: int, data: bytes) -> Iterator[tuple[str, Any]]:
    data = data.strip(_SEPARATOR + b" \t\r\n")
    if not data:
        return
    try:
        yield f"line {line}", json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise LabelError(f"line {line}: it is nested too deeply") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise LabelError(f"line {line}: {str(error).partition(';')[0]}") from None


class _Parser:
    """Collects the features, and the statements of the file that apply to all of them."""

    def __init__(self, builder: AnnotationsBuilder, name: str) -> None:
        self._builder, self._features = builder, FeatureCollector(builder, name)
        self._root: dict[str, Any] = {}
        """Members of the outermost object, except its features."""
        self._qupath = Counter[tuple[str, bool]]()
        """Number of QuPath's objects by kind (annotations or others), and whether they have a
        class."""
        self._planes: set[tuple[str, str]] = set()
        self._has_features = False

    def take(self, element: Element) -> None:
        """Take a part of a JSON whose outermost value is an object or a list."""
        if element.key in ("", "features"):
            self._has_features = True
            if element.index is not None:
                self.take_value(f"features[{element.index}]", element.value)
            elif element.value != []:
                raise LabelError(f"features are {shorten(element.value)}; give a list")
        elif element.key in ("coordinates", "geometries"):
            if element.index is not None:
                self._root.setdefault(element.key, []).append(element.value)
        elif element.key in _ROOT_KEYS:
            self._root[element.key] = element.value

    def take_value(self, where: str, value: object) -> None:
        """Take a feature, a collection of features, or a geometry."""
        self._has_features = True
        if not isinstance(value, dict):
            raise LabelError(f"{where} is {shorten(value)}; give a feature")
        if value.get("type") == "FeatureCollection":
            features = value.get("features")
            if not isinstance(features, list):
                raise LabelError(f"{where}: features are {shorten(features)}; give a list")
            for key in ("crs", "image_uri"):
                if key in value:
                    self._root[key] = value[key]
            for place, feature in enumerate(features):
                self._take_feature(f"{where}, features[{place}]", feature)
        elif value.get("type") == "Feature":
            self._take_feature(where, value)
        else:
            self._take_feature(where, {"type": "Feature", "geometry": value})

    def finish(self) -> None:
        """Take a feature or geometry that is the whole file, and turn all features into objects."""
        kind = self._root.get("type")
        if not self._has_features:
            has_geometry = "coordinates" in self._root or "geometries" in self._root
            if kind != "Feature" and not has_geometry:
                raise LabelError(f"not GeoJSON with features: its type is {shorten(kind)}")
            self.take_value("feature", self._root)
        self._check_qupath()
        uri = self._root.get("image_uri")
        if not is_text(uri):
            uri = None
        is_ours_in_pixels = uri is not None and self._root.get("crs") is None
        self._features.finish(
            None if self._qupath or is_ours_in_pixels else self._find_crs(),
            image_uri=uri,
            class_property=_QUPATH_CLASS if self._qupath else None,
            is_upwards=is_ours_in_pixels,
        )

    def _find_crs(self) -> str:
        if "crs" not in self._root:
            return WGS_84
        crs = self._root["crs"]
        given = crs.get("properties") if isinstance(crs, dict) else None
        if not isinstance(given, dict):
            return UNSTATED
        if crs.get("type") == "EPSG":  # GeoJSON before 2008
            return f"EPSG:{given.get('code')}"
        return read_crs_name(given.get("name"))

    def _take_feature(self, where: str, feature: object) -> None:
        """Take a feature and, in QuPath's hierarchy, those below it."""
        rest = [(where, feature)]
        while rest:
            where, feature = rest.pop()
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise LabelError(f"{where} is {shorten(feature)}; give a feature")
            properties = feature.get("properties")
            if properties is not None and not isinstance(properties, dict):
                raise LabelError(
                    f"{where} has the properties {shorten(properties)}; give an object"
                )
            properties = properties or {}
            children = properties.get("childObjects")
            if isinstance(children, list):
                for place, child in enumerate(children):
                    rest.append((f"{where}, childObjects[{place}]", child))
            self._add(where, feature, properties)

    def _add(self, where: str, feature: dict[str, Any], properties: dict[str, Any]) -> None:
        kind = _find_qupath_kind(feature, properties)
        if kind in ("tmaCore", "root"):
            self._builder.left_out["QuPath's TMA cores and root objects"] += 1
            return
        flat = _flatten(properties)
        polygons = list(self._list_polygons(where, feature.get("geometry")))
        if not polygons:
            return
        layer = 0
        if kind:
            flat["objectType"] = kind
            layer = 0 if kind == "annotation" else 1
            group = "annotations" if kind == "annotation" else "others"
            self._qupath[group, _QUPATH_CLASS in flat] += 1
            plane = feature["geometry"].get("plane")
            if not isinstance(plane, dict):
                plane = {}
            z, t = str(plane.get("z", 0)), str(plane.get("t", 0))
            self._planes.add((z, t))
            if isinstance(feature.get("nucleusGeometry"), dict):
                self._builder.left_out["nuclei of cells: the cells' outlines are taken"] += 1
        number = feature.get("id")
        is_id = isinstance(number, int | str) and number not in _QUPATH_KINDS
        label = f"feature {shorten(number)}" if is_id else where
        self._features.add(label, polygons, flat, layer=layer)

    def _list_polygons(self, where: str, geometry: object) -> Iterator[list[Sequence[float]]]:
        """Yield the rings of each polygon of a geometry; count other shapes.

        Raises:
            LabelError: The value is not a geometry.
        """
        rest = [geometry]
        while rest:
            geometry = rest.pop(0)
            if geometry is None:
                self._builder.left_out["features without a geometry"] += 1
                continue
            members = geometry if isinstance(geometry, dict) else {}
            kind, inner = members.get("type"), members.get("coordinates")
            if kind == "GeometryCollection" and isinstance(members.get("geometries"), list):
                rest[:0] = members["geometries"]
            elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
                count_other(kind, self._builder)
            elif kind not in ("Polygon", "MultiPolygon") or not isinstance(inner, list):
                raise LabelError(f"{where} has the geometry {shorten(geometry)}; give a polygon")
            elif not inner:
                self._builder.left_out["features without a geometry"] += 1
            else:
                for rings in [inner] if kind == "Polygon" else inner:
                    yield _flatten_rings(where, rings)

    def _check_qupath(self) -> None:
        """Refuse objects of QuPath that can be read in two ways."""
        if len(self._planes) > 1:
            planes = sorted(self._planes)[:3]
            shown = ", ".join(f"z={z} t={t}" for z, t in planes)
            raise LabelError(
                f"it has objects on several planes ({shown}); export one plane per file"
            )
        if self._planes - {("0", "0")}:
            self._builder.notes.append(
                "all objects lie on one plane of a stack (z or t is not 0); the plane is not used"
            )
        kinds = {kind for kind, _ in self._qupath}
        if len(kinds) < 2:
            return
        num_unclassified = sum(self._qupath[kind, False] for kind in kinds)
        if num_unclassified and self._builder.label_property is None:
            raise LabelError(
                "it has annotations beside detections or cells, and "
                f"{num_unclassified} of them have no class, so the annotations may be objects, or "
                "areas in which everything was labelled; export the detections or the annotations "
                "alone, or give --label-property objectType, so that the kinds are classes, and "
                "add --area-class annotation if the annotations are such areas"
            )
        self._builder.notes.append("annotations are drawn first, detections and cells over them")


def read_crs_name(name: object) -> str:
    """Return the coordinate system that a name means, such as `urn:ogc:def:crs:EPSG::32633`.

    Returns:
        AUTHORITY:CODE, or UNSTATED for other names.
    """
    if not isinstance(name, str) or len(name) >= 200:
        return UNSTATED
    found = _CODE.fullmatch(name.strip())
    if found is None:
        return UNSTATED
    authority, code = found[1].upper(), found[2]
    return WGS_84 if code.upper() == "CRS84" else f"{authority}:{code}"


def _find_qupath_kind(feature: dict[str, Any], properties: dict[str, Any]) -> str | None:
    """Return the kind of an object of QuPath; None for other features."""
    known = {kind.lower(): kind for kind in _QUPATH_KINDS.values()}
    for key in ("objectType", "object_type"):
        stated = properties.get(key)
        if isinstance(stated, str):
            kind = known.get(stated.lower().replace("_", ""))
            if kind:
                return kind
    old = feature.get("id")
    if isinstance(old, str) and old in _QUPATH_KINDS:
        return _QUPATH_KINDS[old]
    classification = properties.get("classification")
    is_class = isinstance(classification, dict) and {"name", "names"} & classification.keys()
    return "annotation" if is_class else None


def _flatten(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the properties that are not nested, with the name of QuPath's classification.

    Programs that cannot write nested objects write a classification as the text of its JSON.
    """
    flat = {key: value for key, value in properties.items() if not isinstance(value, dict | list)}
    classification = properties.get("classification")
    if isinstance(classification, str) and classification.lstrip().startswith("{"):
        try:
            classification = json.loads(classification)
        except (ValueError, RecursionError):
            return flat
        del flat["classification"]
    if isinstance(classification, dict):
        names = classification.get("names")
        if isinstance(names, list) and names:
            flat[_QUPATH_CLASS] = ": ".join(map(str, names))
        elif classification.get("name"):
            flat[_QUPATH_CLASS] = classification["name"]
    return flat


def _flatten_rings(where: str, rings: object) -> list[Sequence[float]]:
    """Return rings whose points are pairs, or triples with a height, as x and y in turn."""
    if not isinstance(rings, list):
        raise LabelError(f"{where} has the polygon {shorten(rings)}; give its rings")
    flat: list[Sequence[float]] = []
    for ring in rings:
        is_ring = isinstance(ring, list) and all(
            isinstance(point, list) and len(point) >= 2 for point in ring
        )
        if not is_ring:
            raise LabelError(f"{where} has the ring {shorten(ring)}; give its points")
        flat.append([number for point in ring for number in point[:2]])
    return flat


FORMAT = LabelFormat(
    name="GeoJSON",
    suffixes=(".geojson", ".json", *_SEQUENCES),
    recognises=_recognises,
    parse=_parse,
    is_per_image=True,
)
