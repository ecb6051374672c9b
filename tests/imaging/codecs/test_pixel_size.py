"""Pixel sizes are read from files as programs write them, and placeholders count as nothing."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.builders import make_fetch, make_range_file
from unet_ray.imaging.codecs.pixel_size import (
    PixelSize,
    SizeUm,
    differs,
    format_pixel_size,
    read_png_pixel_size,
    read_tiff_pixel_size,
)
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.tiff import find_images
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile
from unet_ray.imaging.geometry import Box

PLANE = np.zeros((4, 6), np.uint8)


def read(file: io.BytesIO, page: int = 0, series: int = 0) -> SizeUm | None:
    """Return the pixel size of a page, sent from the child to the parent as JSON."""
    file.seek(0)
    with QuietTifffile(), tifffile.TiffFile(file) as tiff:
        found = read_tiff_pixel_size(tiff.pages[page], series)
    sent = None if found is None else found.to_json()
    size = PixelSize.from_json(json.loads(json.dumps(sent)))
    return None if size is None else size.in_um()


def write(planes: np.ndarray = PLANE, **options: Any) -> io.BytesIO:
    """Return a TIFF file as tifffile writes it."""
    file = io.BytesIO()
    kind = {name: options.pop(name) for name in ("ome", "imagej") if name in options}
    tifffile.imwrite(file, planes, photometric="minisblack", **kind, **options)
    return file


def write_tags(x: tuple[int, int], y: tuple[int, int], unit: int, text: str = "") -> io.BytesIO:
    """Return a TIFF file with resolutions as a program stores them: rational numbers."""
    file = write(description=text, metadata=None, resolution=(3, 3), resolutionunit="INCH")
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        tags = tiff.pages.first.tags
        for code, value in ((282, x), (283, y), (296, unit)):
            tags[code].overwrite(value)
    return file


def write_ome(*pixels: str) -> io.BytesIO:
    """Return an OME-TIFF of one page, with the attributes of Pixels of each image."""
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="6" SizeY="4" SizeC="1" SizeZ="1" SizeT="1" {attributes}><TiffData/></Pixels>'
        "</Image>"
        for i, attributes in enumerate(pixels)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><!-- Warning: edit cautiously -->'
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{images}</OME>'
    )
    return write(description=xml.encode(), metadata=None)


def sizes(x: Any, y: Any, unit: str | None = None) -> str:
    """Return attributes of Pixels."""
    units = "" if unit is None else f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    return f'PhysicalSizeX="{x}" PhysicalSizeY="{y}"{units}'


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [
        (None, 1),
        ("µm", 1),
        ("\N{GREEK SMALL LETTER MU}m", 1),
        ("um", 1),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("cm", 1e4),
        ("m", 1e6),
        ("dam", 1e7),
        ("hm", 1e8),
        ("Å", 1e-4),
        ("thou", 25.4),
        ("in", 25_400),
        ("li", 25_400 / 12),
        ("pt", 25_400 / 72),
        ("ft", 304_800),
        ("yd", 914_400),
    ],
)
def test_ome_sizes_have_any_unit_of_length(unit: str | None, micrometres: float) -> None:
    found = read(write_ome(sizes(3.2, 1.6, unit)))
    assert found == pytest.approx((3.2 * micrometres, 1.6 * micrometres))


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        (sizes(1.0, 1.0, "pixel"), "a file without calibration"),
        (sizes(1.0, 1.0, "reference frame"), "no length"),
        (sizes(0, 0), "zero"),
        (sizes(-1.61736e9, -1.61736e9), "LumaViewPro wrote this"),
        (sizes("NaN", "NaN"), "not a number"),
        (sizes("", "wide"), "no number"),
        (sizes(1e-5, 1e-5), "smaller than an atom"),
        (sizes(2, 2, "km"), "larger than a kilometre"),
        (sizes(2, 2, "Mm"), "not mm"),
        (sizes(352.777777777777, 352.777777777777), "72 dpi, as Bio-Formats converts it"),
        ('PhysicalSizeX="0.5"', "no height"),
        ("", "nothing"),
    ],
)
def test_ome_files_without_a_size_have_none(attributes: str, why: str) -> None:
    assert read(write_ome(attributes)) is None, why


def test_each_image_of_an_ome_file_has_its_own_size() -> None:
    file = write_ome(sizes(0.5, 0.5), "", sizes(250, 125, "nm"))
    assert [read(file, series=i) for i in range(4)] == [(0.5, 0.5), None, (0.25, 0.125), None]


def test_tifffile_writes_ome_sizes() -> None:
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.29, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 0.31, "PhysicalSizeYUnit": "µm"}
    file = write(np.zeros((3, 4, 6), np.uint16), ome=True, metadata=metadata)
    assert [read(file, page) for page in range(3)] == [(0.29, 0.31)] * 3


@pytest.mark.parametrize("xml", ["<OME", "<OME><Image></OME>", "<!DOCTYPE OME [<!ENTITY a 'b'>]>"])
def test_malformed_xml_states_nothing(xml: str) -> None:
    assert read(write(description=f"{xml}<x></OME>", metadata=None)) is None


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [
        ("micron", 1),
        ("microns", 1),
        ("um", 1),
        (r"\u00B5m", 1),
        (r"\u03BCm", 1),
        ("micrometer", 1),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("cm", 1e4),
        ("inch", 25_400),
        ("Micrometres", 1),
    ],
)
def test_imagej_names_the_unit_in_its_description(unit: str, micrometres: float) -> None:
    """ImageJ stores pixels per unit and ResolutionUnit 1, unless the unit is inch or cm."""
    text = f"ImageJ=1.54f\nunit={unit}\nloop=false\nmin=0.0\nmax=255.0\n"
    file = write_tags((4_000_000, 1_000_000), (2_000_000, 1_000_000), 1, text)
    assert read(file) == pytest.approx((micrometres / 4, micrometres / 2))


@pytest.mark.parametrize("unit", ["pixel", "pixels", "december", "", "sec"])
def test_imagej_units_that_are_no_lengths_give_none(unit: str) -> None:
    assert read(write_tags((4, 1), (4, 1), 1, f"ImageJ=1.54f\nunit={unit}\n")) is None
    assert read(write_tags((4, 1), (4, 1), 1, "ImageJ=1.54f\nloop=false\n")) is None


def test_imagej_may_have_another_unit_for_y() -> None:
    text = "ImageJ=1.54f\nunit=micron\nyunit=nm\n"
    assert read(write_tags((4, 1), (1, 100), 1, text)) == pytest.approx((0.25, 0.1))


def test_a_clear_resolution_unit_wins_over_the_description() -> None:
    """Bio-Formats reads it so: files of ImageJ in cm, and of other programs, would not agree."""
    assert read(write_tags((20_000, 1), (20_000, 1), 3, "ImageJ=\nunit=um\n")) == (0.5, 0.5)


def test_tifffile_writes_hyperstacks_with_a_size_on_every_page() -> None:
    stack = np.zeros((2, 3, 4, 6), np.uint16)
    metadata = {"axes": "ZCYX", "unit": "um", "spacing": 3.9}
    file = write(stack, imagej=True, resolution=(1 / 2.6755, 1 / 2.6755), metadata=metadata)
    assert read(file) == pytest.approx((2.6755, 2.6755), rel=1e-6)
    unstated = write(stack, imagej=True, metadata=metadata)
    assert read(unstated) is None, "one pixel per unit is what tifffile writes without a size"


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        ((20_000, 1), (40_000, 1), 3, (0.5, 0.25)),
        ((300, 1), (300, 1), 2, (25_400 / 300,) * 2),
        ((1, 1), (2, 1), 3, (10_000, 5_000)),
        ((204, 1), (98, 1), 2, (25_400 / 204, 25_400 / 98)),
    ],
)
def test_resolution_tags_have_a_unit(
    x: tuple[int, int], y: tuple[int, int], unit: int, expected: SizeUm
) -> None:
    assert read(write_tags(x, y, unit)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "unit", "why"),
    [
        ((72, 1), 2, "Photoshop"),
        ((720_000, 10_000), 2, "Photoshop"),
        ((96, 1), 2, "Paint"),
        ((2835, 100), 3, "72 dpi per cm, as ImageMagick writes it"),
        ((283, 10), 3, "72 dpi per cm, rounded"),
        ((378, 10), 3, "96 dpi per cm"),
        ((1, 1), 1, "tifffile"),
        ((1, 1), 2, "one pixel per inch"),
        ((1, 1), 3, "one pixel per cm"),
        ((20_000, 1), 1, "no absolute unit"),
        ((0, 1), 3, "Bio-Formats, of an unknown size"),
        ((1, 0), 3, "infinite"),
        ((2**32 - 1, 1), 3, "smaller than an atom"),
        ((1, 2**20), 3, "larger than a kilometre"),
        ((1, 1), 9, "no such unit"),
    ],
)
def test_placeholders_in_resolution_tags_are_none(x: tuple[int, int], unit: int, why: str) -> None:
    assert read(write_tags(x, x, unit)) is None, why


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_pillow_writes_resolution_tags(compression: str) -> None:
    file = io.BytesIO()
    Image.fromarray(PLANE).save(file, "TIFF", dpi=(25_400, 12_700), compression=compression)
    assert read(file) == pytest.approx((1, 2))
    file = io.BytesIO()
    Image.fromarray(PLANE).save(file, "TIFF", dpi=(72, 72), compression=compression)
    assert read(file) is None


APERIO = "Aperio Image Library v11.2.1 \r\n46000x32914 [0,100 46000x32814] (256x256) JPEG/RGB Q=30"


def test_aperio_slides_say_micrometres_per_pixel() -> None:
    text = f"{APERIO}|AppMag = 20|MPP = 0.4990|Left = 25.69"
    assert read(write(description=text, metadata=None)) == (0.499, 0.499)


def test_scaled_pages_of_aperio_slides_do_not_take_the_size_of_the_whole() -> None:
    text = f"{APERIO} -> 574x768|AppMag = 20|MPP = 0.4990"
    assert read(write(description=text, metadata=None)) is None


def write_geo(*keys: tuple[int, int], scale: float = 0.5, matrix: Any = None) -> io.BytesIO:
    """Return a GeoTIFF as GDAL writes it, with a resolution that a map program added."""
    directory = [value for key, code in keys for value in (key, 0, 1, code)]
    place = [
        (33550, "d", 3, (scale, 2 * scale, 0.0), False),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0), False),
    ]
    place = place if matrix is None else [(34264, "d", 16, matrix, False)]
    header = (34735, "H", 4 + len(directory), (1, 1, 0, len(keys), *directory), False)
    return write(
        metadata=None, extratags=[*place, header], resolution=(300, 300), resolutionunit="INCH"
    )


MODEL, PROJECTED, GEOGRAPHIC, METHOD, UNIT = 1024, 3072, 2048, 3075, 3076


@pytest.mark.parametrize(
    ("keys", "metres"),
    [
        ([(MODEL, 1), (PROJECTED, 32633), (UNIT, 9001)], 1),
        ([(MODEL, 1), (PROJECTED, 32633)], 1),
        ([(PROJECTED, 32633)], 1),
        ([(MODEL, 1), (PROJECTED, 2263)], 1200 / 3937),  # New York, US survey feet
        ([(MODEL, 1), (PROJECTED, 2263), (UNIT, 9003)], 1200 / 3937),
        ([(MODEL, 1), (PROJECTED, 32767), (UNIT, 9002)], 0.3048),  # no code, as ESRI writes it
        ([(MODEL, 1), (PROJECTED, 7415)], 1),  # the Netherlands, with heights
        ([(MODEL, 1), (PROJECTED, 60_001), (UNIT, 9001)], 1),  # no code of EPSG
    ],
)
def test_geotiffs_on_a_projected_map_have_the_size_of_their_scale(
    keys: list[tuple[int, int]], metres: float
) -> None:
    assert read(write_geo(*keys)) == pytest.approx((0.5e6 * metres, 1e6 * metres))


def test_geotiffs_that_are_turned_have_the_size_along_rows_and_columns() -> None:
    matrix = (0.3, 0.8, 0, 10.0, 0.4, -0.6, 0, 20.0, *(0.0,) * 8)
    file = write_geo((MODEL, 1), (PROJECTED, 32633), matrix=matrix)
    assert read(file) == pytest.approx((0.5e6, 1e6))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([(MODEL, 2), (GEOGRAPHIC, 4326)], "degrees"),
        ([(GEOGRAPHIC, 4326)], "degrees"),
        ([(MODEL, 1), (PROJECTED, 4326)], "degrees, in the wrong key"),
        ([(MODEL, 1), (PROJECTED, 3857), (UNIT, 9001)], "Web Mercator"),
        ([(MODEL, 1), (PROJECTED, 32767), (METHOD, 7), (UNIT, 9001)], "Mercator without a code"),
        ([(MODEL, 1), (PROJECTED, 60_001)], "no code of EPSG and no unit"),
        ([(MODEL, 1), (PROJECTED, 32633), (UNIT, 9001)][:1], "no coordinate system"),
    ],
)
def test_geotiffs_whose_map_has_no_lengths_have_none(keys: list[tuple[int, int]], why: str) -> None:
    """Their resolution tags do not count either: they say how the map is to be printed."""
    assert read(write_geo(*keys)) is None, why


def test_a_photograph_on_its_side_has_width_and_height_exchanged() -> None:
    size = PixelSize(0.25, 0.5)
    assert [size.turn(n).in_um() for n in (1, 4)] == [(0.25, 0.5)] * 2
    assert [size.turn(n).in_um() for n in (5, 8)] == [(0.5, 0.25)] * 2


def read_png(file: io.BytesIO) -> SizeUm | None:
    found = read_png_pixel_size(file)
    return None if found is None else found.in_um()


def write_png(**options: Any) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(PLANE).save(file, "PNG", **options)
    return file


def read_phys(x: int, y: int, unit: int) -> SizeUm | None:
    """Return the size of a PNG with a pHYs chunk."""
    png, chunk = write_png().getvalue(), b"pHYs" + struct.pack(">IIB", x, y, unit)
    end = 33  # of the signature and the chunk IHDR
    whole = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return read_png(io.BytesIO(png[:end] + whole + png[end:]))


def test_png_files_state_pixels_per_metre() -> None:
    assert read_phys(4_000_000, 2_000_000, 1) == pytest.approx((0.25, 0.5))
    assert read_png(write_png(dpi=(25_400, 25_400))) == pytest.approx((1, 1))
    assert read_png(write_png()) is None


@pytest.mark.parametrize(
    ("x", "unit"),
    [
        (2834, 1),
        (2835, 1),
        (3779, 1),
        (3780, 1),
        (0, 1),
        (1, 1),
        (1, 0),
        (4_000_000, 0),
        (4_000_000, 7),
    ],
)
def test_png_placeholders_are_none(x: int, unit: int) -> None:
    assert read_phys(x, x, unit) is None


@given(st.text(), st.binary(max_size=40))
def test_descriptions_of_any_content_do_no_harm(text: str, data: bytes) -> None:
    for content in (text.encode(), data, b"ImageJ=" + data, b"Aperio|MPP = " + data):
        file = write(description=content, metadata=None)
        assert read(file) is None or min(read(file) or ()) > 0


@pytest.mark.parametrize("sent", [[], [1, 2, 3], ["a", 1, None, 0], [1, 1, 1, None], 5])
def test_a_size_of_another_process_is_checked(sent: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        PixelSize.from_json(sent)


def test_a_size_of_another_process_that_is_no_number_is_none() -> None:
    for x in (float("nan"), float("inf"), -1.0, 0.0):
        size = PixelSize.from_json([x, 1.0, 1.0, 0])
        assert size is not None
        assert size.in_um() is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((0.2501, 0.2499), "0.25 µm"),
        ((0.5, 2), "0.5 × 2 µm"),
        ((0.0123, 0.0123), "0.012 µm"),
        ((352.4, 352.4), "350 µm"),
        ((51_234, 51_234), "5.1 cm"),
        ((300_000, 9_000), "30 × 0.9 cm"),
        ((1e7, 1e7), "10 m"),
    ],
)
def test_sizes_are_shown_with_two_digits(size: SizeUm, text: str) -> None:
    assert format_pixel_size(size) == text


def test_sizes_differ_by_more_than_a_quarter_in_either_direction_of_either_side() -> None:
    model = (0.5, 2.0)
    assert not any(differs(size, model) for size in [(0.5, 2), (0.625, 1.6), (0.4, 2.5)])
    assert all(differs(size, model) for size in [(0.63, 2), (0.39, 2), (0.5, 1.59), (0.5, 2.51)])


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    found = Decoder()
    yield found
    found.close()


def write_turned(orientation: int) -> io.BytesIO:
    tags = [(274, "H", 1, orientation, True)]
    size = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
    return write(metadata=None, extratags=tags, **size)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (write_png(dpi=(50_800, 25_400)), (0.5, 1)),
        (write_png(), None),
        (write_tags((20_000, 1), (40_000, 1), 3), (0.5, 0.25)),
        (write_geo((MODEL, 1), (PROJECTED, 2263)), (0.5e6 * 1200 / 3937, 1e6 * 1200 / 3937)),
        (write_geo((MODEL, 1), (PROJECTED, 3857)), None),
        (write_turned(4), (0.25, 0.5)),
        (write_turned(6), (0.5, 0.25)),
    ],
)
def test_decoded_images_and_their_windows_have_the_size(
    decoder: Decoder, file: io.BytesIO, expected: SizeUm | None
) -> None:
    """The decoder's child cannot look up the map of a GeoTIFF."""
    data = file.getvalue()
    found = [decoder.decode(data)]
    if found[0].orientation == 1:
        decoder.open(make_range_file(data))
        found += [decoder.window(Box(0, 0, 2, 3)), decoder.window(Box(1, 1, 3, 3))]
    assert [image.pixel_size_um for image in found] == [pytest.approx(expected)] * len(found)


def read_planes(decoder: Decoder, data: bytes) -> list[SizeUm | None]:
    """Return the size of each image of a file, read whole and in windows without its others."""
    found = []
    for place in find_images(io.BytesIO(data)):
        file = PlaneFile(make_fetch(data), [], place)
        image = decoder.decode(file)
        decoder.open(file)
        assert decoder.window(Box(0, 0, 2, 2)).pixel_size_um == image.pixel_size_um
        found.append(image.pixel_size_um)
    return found


def test_each_plane_of_a_stack_has_the_size_that_only_the_first_page_describes(
    decoder: Decoder,
) -> None:
    stack = np.zeros((2, 3, 4, 6), np.uint16)
    imagej = {"axes": "ZCYX", "unit": "um"}
    file = write(stack, imagej=True, resolution=(4, 2), metadata=imagej)
    assert read_planes(decoder, file.getvalue()) == [(0.25, 0.5)] * 2
    ome = {"axes": "ZCYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    assert (
        read_planes(decoder, write(stack, ome=True, metadata=ome).getvalue()) == [(0.25, 0.5)] * 2
    )


def test_each_series_has_its_own_size(decoder: Decoder) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        for size in (0.5, 0.25):
            metadata = {"axes": "ZYX", "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(np.zeros((2, 4, 6), np.uint8), metadata=metadata)
    sizes = [(0.5, 0.5)] * 2 + [(0.25, 0.25)] * 2
    assert read_planes(decoder, file.getvalue()) == sizes


def test_pages_without_a_description_have_the_size_of_their_own_tags(decoder: Decoder) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for per_cm in (20_000, 40_000):
            options = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            writer.write(PLANE, metadata=None, **options)
    assert read_planes(decoder, file.getvalue()) == [(0.5, 0.5), (0.25, 0.25)]
