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
"""Value of --label-crs by which coordinates are pixels."""
_CODE = re.compile(r"[A-Z]{2,10}:\w{1,20}")
_MARGIN_PX = 16.0
"""Distance by which objects that are cut may leave their image (px)."""
_DECIMALS = 6
"""Decimals of coordinates in pixels; floats of map coordinates are good to about eight."""
_FARTHEST = 1e12
"""Largest coordinate that is computed with, on maps and in pixels; the Earth is 4e7 m round."""


class Layout:
    """Objects of a file, in its coordinates, and the georeferenced images on which they may lie."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[LocatedImage]) -> None:
        self._shapes, self._images = shapes, images
        self._placed: dict[str, ObjectsOnImages] = {}

    def place(self, crs: str) -> ObjectsOnImages:
        """Return where the objects lie if their coordinates are those of a system."""
        if crs not in self._placed:
            self._placed[crs] = ObjectsOnImages(self._shapes, self._images, crs)
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
        own = sorted(
            {f"EPSG:{image.georeference.epsg}" for image in self._images if image.georeference}
        )
        if not len(self._shapes):
            return own[0]
        fits = [PIXELS] if self._fit_as_pixels() else []
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
        return bool(left >= -1 and right <= width and (down or up) and has_pixels(bounds))

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


class ObjectsOnImages:
    """Objects on images, if their coordinates are those of a system."""

    def __init__(self, shapes: NDArray[Any], images: Sequence[LocatedImage], crs: str) -> None:
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
    image: LocatedImage, numbers: NDArray[np.int64], shapes: NDArray[Any]
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


def _outline(image: LocatedImage) -> Any:
    """Return the outline of an image in its coordinate system."""
    assert image.georeference is not None
    return image.georeference.to_map(np.array([shapely.box(0, 0, image.width, image.height)]))[0]


def _transform(shapes: NDArray[Any], crs: str, epsg: int) -> NDArray[Any]:
    """Return shapes in another coordinate system, x before y; infinite where they have no place."""
    source, target = find_system(crs), CRS.from_epsg(epsg)
    if source == target:
        return shapes
    transform = Transformer.from_crs(source, target, always_xy=True).transform
    try:
        return shapely.transform(
            shapes, lambda points: np.column_stack(transform(points[:, 0], points[:, 1]))
        )
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
        f"no coordinate system {crs[:60]}{where} is known; give --label-crs pixels or EPSG:n"
    )


def make_shapes(objects: pa.Table) -> NDArray[Any]:
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


def has_pixels(bounds: NDArray[np.float64]) -> bool:
    """Tell whether a feature is as large as a pixel, from the bounds of all."""
    return bool((bounds[:, 2:] - bounds[:, :2]).max(initial=0) >= 1)
