"""Outlines on a map, and the georeferenced images that they meet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from unet_ray.imaging.georeference import Georeference
from unet_ray.labelled_data.annotations import UNSTATED, LabelError
from unet_ray.labelled_data.maps.image_places import LocatedImage

PIXELS = "pixels"
"""Value of --label-crs for coordinates that are pixels."""
_CODE = re.compile(r"[A-Z]{2,10}:\w{1,20}")
_MARGIN_PX = 16.0
"""Distance by which objects may extend beyond their image after cutting (px)."""
_DECIMALS = 6
"""Decimals of pixel coordinates; map coordinates as floats are exact to about eight."""
_FARTHEST = 1e12
"""Largest coordinate of sound shapes, on maps and in pixels; the Earth's circumference is 4e7 m."""


class Layout:
    """Objects of a file, in its coordinates, and the georeferenced images on which they may lie."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[LocatedImage]) -> None:
        self._shapes, self._images = shapes, images
        self._placed: dict[str, ObjectsOnImages] = {}

    def place(self, crs: str) -> ObjectsOnImages:
        """Return the objects on images, if their coordinates are in a given system."""
        if crs not in self._placed:
            self._placed[crs] = ObjectsOnImages(self._shapes, self._images, crs)
        return self._placed[crs]

    def choose_system(self, stated: str, given: str | None) -> str:
        """Return the coordinate system of the objects.

        Args:
            stated: System that the file states, or UNSTATED.
            given: System that the user gave, if any.

        Raises:
            LabelError: The coordinates may also be pixels, or no object lies on an image.
        """
        if given is not None:
            if len(self._shapes) and not self.place(given).num_hits:
                raise LabelError(f"{self._describe_miss(given)}; give another --label-crs")
            return given
        codes = {image.georeference.epsg for image in self._images if image.georeference}
        systems = sorted(f"EPSG:{code}" for code in codes)
        if not len(self._shapes):
            return systems[0]
        may_be_pixels = self._fit_as_pixels()
        num_hits = self.place(stated).num_hits if stated != UNSTATED else 0
        if num_hits and not may_be_pixels:
            return stated
        if num_hits:
            raise LabelError(
                f"its coordinates can be read in two ways: as {stated}, in which {num_hits} of "
                f"{len(self._shapes)} features lie on images, or as pixels, in which all do; give "
                f"--label-crs {stated} or --label-crs pixels"
            )
        fits = [crs for crs in systems if crs != stated and self.place(crs).num_hits]
        if may_be_pixels:
            fits.append(PIXELS)
        if stated != UNSTATED:
            remedy = "give the system with --label-crs EPSG:n, or other images"
            if fits:
                remedy = f"they do as {' or '.join(fits)}: give --label-crs {fits[0]}"
            raise LabelError(f"{self._describe_miss(stated)}; {remedy}")
        remedy = f"give --label-crs EPSG:n or {PIXELS}"
        if fits:
            remedy = f"give --label-crs {' or '.join(fits)}, in which features lie on images"
        raise LabelError(
            "it does not state the coordinate system of its coordinates, but images are "
            f"georeferenced; {remedy}"
        )

    def _fit_as_pixels(self) -> bool:
        """Tell whether coordinates may be pixels: all lie in an image, and some span a pixel."""
        bounds = shapely.bounds(self._shapes)
        bounds = bounds[np.isfinite(bounds).all(axis=1)]
        if not len(bounds):
            return False
        width = max(image.width for image in self._images) + 1
        height = max(image.height for image in self._images) + 1
        left, top = bounds[:, :2].min(axis=0)
        right, bottom = bounds[:, 2:].max(axis=0)
        fits_across = left >= -1 and right <= width
        fits_downwards = top >= -1 and bottom <= height
        fits_upwards = bottom <= 1 and top >= -height
        fits = fits_across and (fits_downwards or fits_upwards)
        return bool(fits and has_pixels(bounds))

    def _describe_miss(self, crs: str) -> str:
        image = self._images[0]
        assert image.georeference is not None
        return (
            f"no feature lies on an image if its coordinates ({_show_bounds(self._shapes)}) are "
            f"{crs}; {image.name} has {_show_bounds(_outline(image))} "
            f"(EPSG:{image.georeference.epsg})"
        )


def _show_bounds(shapes: NDArray[Any] | shapely.Geometry) -> str:
    left, top, right, bottom = shapely.total_bounds(shapes).tolist()
    return f"x {left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g}"


class ObjectsOnImages:
    """Objects on images, if their coordinates are in a given system."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[LocatedImage], crs: str) -> None:
        self._images = images
        self.is_lost = np.zeros(len(shapes), bool)
        """True for objects that cannot be expressed in the system of an image."""
        self.outlines: list[list[tuple[int, shapely.Geometry]]] = [[] for _ in images]
        """Objects on each image, by their number, and their outlines in its pixels."""
        self.is_within = [False] * len(images)
        """True for images that lie within the extent of all objects."""
        systems = [image.georeference.epsg for image in images if image.georeference]
        for epsg in sorted(set(systems)):
            of_system = [place for place, system in enumerate(systems) if system == epsg]
            self._place(_transform(shapes, crs, epsg), of_system)
        hits = {number for outlines in self.outlines for number, _ in outlines}
        self.num_hits = len(hits)
        """Number of objects that lie on an image."""

    def _place(self, shapes: NDArray[Any], places: Iterable[int]) -> None:
        """Find the objects on the images of one coordinate system, which is that of `shapes`."""
        is_sound = _are_sound(shapes)
        self.is_lost |= ~is_sound
        numbers = np.flatnonzero(is_sound)
        if not len(numbers):
            return
        boxes = shapely.box(*shapely.bounds(shapes[numbers]).T)
        tree = shapely.STRtree(boxes)
        extent = shapely.box(*shapely.total_bounds(shapes[numbers]))
        for place in places:
            outline = _outline(self._images[place])
            self.is_within[place] = bool(shapely.covers(extent, outline))
            near = np.sort(numbers[tree.query(outline, predicate="intersects")])
            self.outlines[place] = _cut(self._images[place], near, shapes[near])


def _cut(
    image: LocatedImage, numbers: NDArray[np.int64], shapes: NDArray[Any]
) -> list[tuple[int, shapely.Geometry]]:
    """Return the objects that lie on an image, in its pixels; cut if they go far beyond it."""
    assert image.georeference is not None
    pixels = _to_pixels(shapes, image.georeference)
    is_sound = _are_sound(pixels)
    numbers, pixels = numbers[is_sound], pixels[is_sound]
    valid = pixels.copy()
    is_broken = ~shapely.is_valid(pixels)
    valid[is_broken] = shapely.make_valid(pixels[is_broken])
    frame = shapely.box(0, 0, image.width, image.height)
    is_on = shapely.area(shapely.intersection(valid, frame)) > 0
    far = max(image.width, image.height)
    bounds = shapely.bounds(pixels)
    limits = (image.width + far, image.height + far)
    is_near = (bounds[:, :2] > -far).all(axis=1)
    is_near &= (bounds[:, 2:] < limits).all(axis=1)
    kept = shapely.buffer(frame, _MARGIN_PX, join_style="mitre")
    found = []
    for place in np.flatnonzero(is_on):
        outline = pixels[place]
        if not is_near[place]:
            outline = shapely.intersection(valid[place], kept)
        found.append((int(numbers[place]), outline))
    return found


def _are_sound(shapes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the shapes that exist and whose coordinates are all finite and near.

    Bounds do not show this: holes may lie outside their polygon.
    """
    points, owners = shapely.get_coordinates(shapes, return_index=True)
    farthest = np.zeros(len(shapes))
    np.maximum.at(farthest, owners, np.abs(points).max(axis=1, initial=0))  # NaN stays NaN
    return ~shapely.is_missing(shapes) & (farthest <= _FARTHEST)


def _to_pixels(shapes: NDArray[Any], place: Georeference) -> NDArray[Any]:
    """Return shapes in pixels of an image; the inverse of `Georeference.to_map`.

    Coordinates are rounded, so corners of pixels return to their exact values.
    """
    a, b, c, d, e, f = place.affine
    matrix = np.linalg.inv(np.array([[a, b], [d, e]])).T
    offset = np.array([c, f])
    return shapely.transform(shapes, lambda points: ((points - offset) @ matrix).round(_DECIMALS))


def _outline(image: LocatedImage) -> shapely.Geometry:
    """Return the outline of an image in its coordinate system."""
    assert image.georeference is not None
    box = shapely.box(0, 0, image.width, image.height)
    return image.georeference.to_map(np.array([box]))[0]


def _transform(shapes: NDArray[Any], crs: str, epsg: int) -> NDArray[Any]:
    """Return shapes in another system, x before y; coordinates without a place are infinite."""
    source, target = find_system(crs), CRS.from_epsg(epsg)
    if source == target:
        return shapes
    transformer = Transformer.from_crs(source, target, always_xy=True)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    try:
        return shapely.transform(shapes, move)
    except ProjError as error:
        raise LabelError(f"coordinates of {crs} cannot be transformed to EPSG:{epsg}") from error


def find_system(crs: str, where: str = "") -> CRS:
    """Return the system of a code; raise LabelError if there is none."""
    try:
        if _CODE.fullmatch(crs.upper()):
            return CRS.from_user_input(crs.upper())
    except CRSError:
        pass
    raise LabelError(
        f"the coordinate system {crs[:60]}{where} is unknown; give --label-crs pixels or EPSG:n"
    )


def make_shapes(objects: pa.Table) -> NDArray[Any]:
    """Return the outlines of objects as shapely multipolygons.

    An object without an outline, or with a coordinate that is not a finite number, is None.
    """
    lists = objects["parts"].combine_chunks()
    parts = lists.values  # one per ring
    is_hole = parts.field("is_hole").to_numpy(zero_copy_only=False)
    shapes = np.empty(len(objects), object)
    if not len(is_hole):
        return shapes
    points = parts.field("points")
    xy = points.values.to_numpy().reshape(-1, 2)
    ends = points.offsets.to_numpy() // 2
    ring_of_point = np.repeat(np.arange(len(is_hole)), np.diff(ends))
    num_rings = np.diff(lists.offsets.to_numpy())
    object_of_ring = np.repeat(np.arange(len(objects)), num_rings)
    is_finite = np.isfinite(xy).all(axis=1)
    # shapely refuses rings with other numbers: 0 stands for them until their objects are removed
    finite_xy = np.where(is_finite[:, None], xy, 0.0)
    closed, ring_of_closed = _close(finite_xy, ends)
    rings = shapely.linearrings(closed, indices=ring_of_closed)
    polygon_of_ring = np.cumsum(~is_hole) - 1
    polygons = shapely.polygons(rings, indices=polygon_of_ring)
    shapely.multipolygons(polygons, indices=object_of_ring[~is_hole], out=shapes)
    bad_rings = ring_of_point[~is_finite]
    shapes[object_of_ring[bad_rings]] = None
    return shapes


def _close(
    xy: NDArray[np.float64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Close rings.

    Args:
        xy: Points of all rings, (points, 2).
        ends: First point of each ring, and the number of points.

    Returns:
        Points, with the first one of each ring repeated at its end, and the ring of each point.
    """
    starts, stops = ends[:-1], ends[1:]
    closed = np.insert(xy, stops, xy[starts], axis=0)
    return closed, np.repeat(np.arange(len(starts)), stops - starts + 1)


def has_pixels(bounds: NDArray[np.float64]) -> bool:
    """Tell whether any feature is as large as a pixel, given the bounds of all."""
    sides = bounds[:, 2:] - bounds[:, :2]
    return bool(sides.max(initial=0) >= 1)
