"""Pixel size of an image, as its file states it.

Reading happens in the decoder's child process, which can open no file. Coordinate systems of maps
are looked up in a database file by EPSG code, so `PixelSize.in_um` is for the parent process.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import hypot, isclose
from typing import Any, BinaryIO
from xml.etree import ElementTree

import tifffile

from unet_ray.imaging.codecs.geo_tags import MAX_KEY, read_map_tags
from unet_ray.imaging.codecs.range_file import RangeFile

SizeUm = tuple[float, float]
"""Width and height of a pixel (µm)."""

_SMALLEST_UM, _LARGEST_UM = 1e-4, 1e9
"""Range of plausible sizes: from an atom to a kilometre."""
_INCH_UM, _CM_UM, _METRE_UM = 25_400.0, 10_000.0, 1_000_000.0
_SCREEN_DPI = (72, 96)
"""Screen resolutions, which editors write into every file."""
_SCREEN_TOLERANCE = 0.002
"""Relative tolerance of these: 72 dpi is also written as 28.3 per cm, and as 2834 per metre."""
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_TAG_UNITS_UM = {2: _INCH_UM, 3: _CM_UM}
"""Value of the tag ResolutionUnit → length (µm); 1 says that there is no absolute unit."""
_MAX_XML_CHARACTERS = 2**26
"""Longest OME-XML that is parsed."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PHYS = struct.Struct(">I4sIIB")
"""Head of a PNG chunk, and the content of pHYs: pixels per unit in x and y, and the unit."""
_PHYS_METRE = 1
_CHUNK_FRAME_BYTES = 12
"""Size of a PNG chunk without its content (bytes)."""
_MOST_CHUNKS = 1000
"""Largest number of PNG chunks that are searched."""
_DIFFERENT = 1.25
"""Ratio above which two sizes count as different."""
_SHOWN_UNITS = (("m", 1e6), ("cm", 1e4))
"""Units that large sizes are shown in, and their lengths (µm)."""
_FIRST_SIDEWAYS = 5
"""First of the EXIF orientations that exchange height and width."""
_STRETCHED = re.compile(
    "Popular Visualisation|Mercator|Equidistant Cylindrical|Lambert Cylindrical"
)
"""Beginnings of the names of projections whose scale changes with the latitude, for Mercator by a
factor of two at 60°. On maps of countries it changes by less than a hundredth."""

_PREFIXES = {"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1}
_PREFIXES |= {"": 0, "d": -1, "c": -2, "m": -3, "µ": -6, "u": -6, "n": -9, "p": -12, "f": -15}
_PREFIXES |= {"a": -18, "z": -21, "y": -24}
_SYMBOLS = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()}
_SYMBOLS |= {"µ": 1.0, "Å": 1e-4, "thou": 25.4, "li": _INCH_UM / 12, "in": _INCH_UM}
_SYMBOLS |= {"ft": 12 * _INCH_UM, "yd": 36 * _INCH_UM, "mi": 63_360 * _INCH_UM}
_SYMBOLS |= {"pt": _INCH_UM / 72, "ua": 1.495978707e17, "ly": 9.4607304725808e21}
_SYMBOLS |= {"pc": 3.0856775814913673e22}
"""Symbols of lengths in OME-XML, and those that people type into ImageJ → length (µm). Their case
matters: mm and Mm."""
_WORDS = {"inch": _INCH_UM, "inches": _INCH_UM, "foot": 12 * _INCH_UM, "feet": 12 * _INCH_UM}
_WORDS |= {
    f"{prefix}{metre}{plural}": length
    for prefix, length in {"nano": 1e-3, "micro": 1.0, "milli": 1e3, "centi": 1e4, "": 1e6}.items()
    for metre in ("meter", "metre")
    for plural in ("", "s")
}
_WORDS |= {"micron": 1.0, "microns": 1.0, "angstrom": 1e-4, "angstroms": 1e-4}
"""Words for lengths, in lower case → length (µm)."""


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel as a file states it, in the frame of the stored samples."""

    x: float
    """Width (units)."""
    y: float
    """Height (units)."""
    unit_um: float | None = 1.0
    """Length of the unit (µm). None: that of the axes of the coordinate system."""
    epsg: int = 0
    """EPSG code of the map that the pixels lie on, as the file states it. 0: none."""

    def turn(self, orientation: int) -> PixelSize:
        """Return the size in the frame of the upright image.

        Args:
            orientation: EXIF orientation of the file; 5 to 8 exchange x and y.
        """
        if orientation < _FIRST_SIDEWAYS:
            return self
        return replace(self, x=self.y, y=self.x)

    def in_um(self) -> SizeUm | None:
        """Return width and height (µm); None if they are not known or not plausible.

        Maps in degrees have no size, nor have maps such as Web Mercator, whose metres are not
        metres on the ground.
        """
        unit_um = self.unit_um
        if self.epsg:
            keeps_lengths, unit_of_map = _look_up_map(self.epsg)
            unit_um = (unit_um or unit_of_map) if keeps_lengths else None
        if unit_um is None:
            return None
        x_um = self.x * unit_um
        y_um = self.y * unit_um
        if not (_SMALLEST_UM <= x_um <= _LARGEST_UM and _SMALLEST_UM <= y_um <= _LARGEST_UM):
            return None
        return x_um, y_um

    def to_json(self) -> list[Any]:
        """Return the size as values that JSON can hold."""
        return [self.x, self.y, self.unit_um, self.epsg]

    @staticmethod
    def from_json(found: Sequence[Any] | None) -> PixelSize | None:
        """Make a size from the JSON of another process, which an attacker may control.

        Args:
            found: Result of `to_json`, or None.

        Raises:
            ValueError: It does not hold three numbers and a code; TypeError too.
        """
        if found is None:
            return None
        x, y, unit_um, epsg = found
        if not 0 <= epsg <= MAX_KEY:
            raise ValueError(found)
        unit_um = None if unit_um is None else float(unit_um)
        return PixelSize(float(x), float(y), unit_um, int(epsg))


def differs(size_um: SizeUm, expected_um: SizeUm) -> bool:
    """Tell whether a pixel's width or height differs from the expected one by over a quarter."""
    ratios = [side / expected for side, expected in zip(size_um, expected_um, strict=True)]
    return max(ratios) > _DIFFERENT or min(ratios) < 1 / _DIFFERENT


def format_pixel_size(size_um: SizeUm) -> str:
    """Return a pixel size with two significant digits.

    Example:
        (0.2501, 0.2499) → 0.25 µm; (0.5, 2) → 0.5 × 2 µm; (51234, 51234) → 5.1 cm.
    """
    unit, length_um = "µm", 1.0
    for larger_unit, larger_um in reversed(_SHOWN_UNITS):
        if max(size_um) >= larger_um:
            unit, length_um = larger_unit, larger_um
    # Two digits by `.2g`, then without an exponent by `:g`.
    rounded = [float(f"{side / length_um:.2g}") for side in size_um]
    sides = [f"{side:g}" for side in rounded]
    return f"{' × '.join(dict.fromkeys(sides))} {unit}"


def read_tiff_pixel_size(page: tifffile.TiffPage, series: int = 0) -> PixelSize | None:
    """Read the pixel size of a page of a TIFF.

    The most specific source comes first: the description of the whole file, then GeoTIFF, then the
    resolution tags. Values that editors and libraries write without knowing the size are ignored:
    72 and 96 dpi, and one pixel per unit.

    Args:
        page: Page of a file, whose first page describes the file.
        series: Index of the image in OME-XML.

    Returns:
        The size in the frame of the stored samples; None if the file does not state one.
    """
    found = read_described_size(page, read_description(page.parent), series)
    if found is not None:
        return found
    map_tags = read_map_tags(page)
    if map_tags is None:
        return _read_resolution(page)
    a, b, _, d, e, _ = map_tags.affine
    unit_um = None if map_tags.unit_m is None else 1e6 * map_tags.unit_m
    return PixelSize(hypot(a, d), hypot(b, e), unit_um, map_tags.projected_epsg)


def read_described_size(
    page: tifffile.TiffPage, description: str, series: int = 0
) -> PixelSize | None:
    """Read the pixel size of a page, in micrometres, from the description of its whole file.

    Args:
        page: Page of the file.
        description: Description of the file: OME-XML, or that of ImageJ or Aperio.
        series: Index of the image in OME-XML.
    """
    if description.startswith("ImageJ="):
        lines = [line.partition("=") for line in description.splitlines()]
        units = {name: value for name, _, value in lines if name in ("unit", "yunit")}
        x_unit_um = y_unit_um = _find_length(_unescape(units.get("unit", "")))
        if "yunit" in units:  # ImageJ writes the unit of y only if it differs
            y_unit_um = _find_length(_unescape(units["yunit"]))
        return _read_resolution(page, (x_unit_um, y_unit_um))
    sizes = _parse_ome(description) if description.endswith("OME>") else ()
    size = sizes[series] if series < len(sizes) else None
    if size is not None:
        return size
    # scanners of Aperio write the micrometres per pixel of the whole slide; the descriptions of
    # pages that were scaled down (`->`) repeat it
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description)
    if not found or not description.startswith("Aperio") or "->" in description:
        return None
    side_um = _parse_number(found[1])
    return _believe(side_um, side_um)


def read_description(tiff: tifffile.TiffFile) -> str:
    """Return the description of a file; empty if it has none or it is too long.

    It is a tag of the first page.
    """
    page = tiff.pages.first
    tag = page.tags.get("ImageDescription")
    if tag is None or tag.count > _MAX_XML_CHARACTERS:
        return ""
    return str(page.description).strip()


def read_png_pixel_size(file: BinaryIO | RangeFile) -> PixelSize | None:
    """Read the pixel size of a PNG in the frame of the stored samples, if it states one.

    Args:
        file: File that is open for reading and seeking.
    """
    at = len(PNG_MAGIC)
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(_PHYS.size)
        if len(head) < _PHYS.size:
            return None
        size, kind, x, y, unit = _PHYS.unpack(head)
        if kind == b"pHYs":
            is_stated = unit == _PHYS_METRE and min(x, y) > 0 and (x, y) != (1, 1)
            return _believe(_METRE_UM / x, _METRE_UM / y) if is_stated else None
        if kind == b"IDAT":
            return None
        at += size + _CHUNK_FRAME_BYTES
    return None


@lru_cache(maxsize=1)
def _parse_ome(xml: str) -> tuple[PixelSize | None, ...]:
    """Return the pixel size of each image of OME-XML; empty if the XML is malformed."""
    if "<!" in xml.replace("<!--", ""):  # a document type, which may define entities
        return ()
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 (nothing is defined in it)
    except (ElementTree.ParseError, ValueError):
        return ()
    sizes: list[PixelSize | None] = []
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            sizes.append(None)
            continue
        sides_um = []
        for axis in "XY":
            side = _parse_number(pixels.get(f"PhysicalSize{axis}", ""))
            unit_um = _find_length(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            sides_um.append(side * (unit_um or 0))
        sizes.append(_believe(sides_um[0], sides_um[1]))
    return tuple(sizes)


def _unescape(text: str) -> str:
    r"""Return a text of ImageJ, which writes characters beyond ASCII as in `\u00B5m`."""
    return re.sub(r"\\u([0-9A-Fa-f]{4})", lambda code: chr(int(code[1], 16)), text)


def _read_resolution(
    page: tifffile.TiffPage, units_um: tuple[float | None, float | None] = (None, None)
) -> PixelSize | None:
    """Return the pixel size of a page's resolution tags.

    Args:
        page: Page of a file.
        units_um: Lengths of the units of x and y that the description names. They are used if the
            tags name no unit of their own; Bio-Formats has the same order.
    """
    unit_um = _TAG_UNITS_UM.get(page.tags.valueof(_RESOLUTION_UNIT, 1))
    x_unit_um, y_unit_um = (unit_um, unit_um) if unit_um else units_um
    x_per_unit = _read_rational(page, _X_RESOLUTION)
    y_per_unit = _read_rational(page, _Y_RESOLUTION)
    is_stated = min(x_per_unit, y_per_unit) > 0 and (x_per_unit, y_per_unit) != (1, 1)
    if not is_stated or not x_unit_um or not y_unit_um:
        return None
    return _believe(x_unit_um / x_per_unit, y_unit_um / y_per_unit)


def _read_rational(page: tifffile.TiffPage, tag: int) -> float:
    """Return the value of a tag that is a RATIONAL or another number; 0 if it has none."""
    match page.tags.valueof(tag):
        case int() | float() as value:
            return float(value)
        case (int() as above, int() as below) if below:
            return above / below
    return 0.0


def _parse_number(text: str) -> float:
    """Return the number that a text holds; 0 if it holds none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _find_length(unit: str) -> float | None:
    """Return the length of a unit (µm); None if it is not a length, such as `pixel`."""
    name = unit.strip().replace("\N{GREEK SMALL LETTER MU}", "µ")
    return _SYMBOLS.get(name) or _WORDS.get(name.lower())


def _believe(x_um: float, y_um: float) -> PixelSize | None:
    """Return a pixel size; None if it is not plausible, or that of a screen."""
    size = PixelSize(x_um, y_um)
    for dpi in _SCREEN_DPI:
        side_um = _INCH_UM / dpi
        is_x = isclose(x_um, side_um, rel_tol=_SCREEN_TOLERANCE)
        is_y = isclose(y_um, side_um, rel_tol=_SCREEN_TOLERANCE)
        if is_x and is_y:
            return None
    return None if size.in_um() is None else size


@lru_cache(maxsize=1024)
def _look_up_map(epsg: int) -> tuple[bool, float | None]:
    """Look an EPSG code up in the database of PROJ.

    Returns:
        Whether lengths on the map are lengths on the ground, and the length of its unit (µm). For
        an unknown code, lengths are trusted: some programs write codes of ESRI.
    """
    # the decoder's child loads this module, but can open no database
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_epsg(epsg)
    except CRSError:
        return True, None
    flat = found.sub_crs_list[0] if found.is_compound else found
    if not flat.is_projected or _STRETCHED.match(flat.coordinate_operation.method_name):
        return False, None
    return True, 1e6 * flat.axis_info[0].unit_conversion_factor
