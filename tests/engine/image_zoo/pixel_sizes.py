"""Pixel sizes, and what looks like one and is not."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tests.builders import encode_pillow
from tests.engine.image_zoo.cases import (
    Case,
    Image,
    case,
    draw,
    first,
    one,
    paint,
    tiff,
    tiff_of,
    tiff_with,
)
from tests.engine.image_zoo.colours import add_chunk
from tests.engine.image_zoo.ome import image_xml, ome_xml


def sized(
    pages: dict[str, tuple[dict[str, Any], tuple[float, float] | None]], model: str = "u8x3"
) -> Case:
    """Return a case of a TIFF file for each name: options of the page, and µm in x and y."""
    marks = draw(601)
    samples = first(paint(marks, "uint16" if model.startswith("u16") else "uint8"))
    files = {f"{name}.tif": tiff_of({"data": samples, **page}) for name, (page, _) in pages.items()}
    images = {f"{name}.tif": Image(marks, None, size) for name, (_, size) in pages.items()}
    return Case(files, images, model)


def ome_size(attributes: str) -> dict[str, Any]:
    """Return a description with attributes of `Pixels`."""
    return {"description": ome_xml(image_xml(attributes=attributes))}


@case
def ome_units() -> Case:
    def both(x_size: str, y_size: str, unit: str | None) -> dict[str, Any]:
        text = f'PhysicalSizeX="{x_size}" PhysicalSizeY="{y_size}"'
        if unit:
            text += f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
        return ome_size(text)

    return sized(
        {
            "default": (both("0.325", "0.65", None), (0.325, 0.65)),
            "micro": (both("0.325", "0.65", "µm"), (0.325, 0.65)),
            "greek": (both("0.325", "0.65", "μm"), (0.325, 0.65)),
            "nano": (both("325", "650.0", "nm"), (0.325, 0.65)),
            "milli": (both("3.25E-4", "6.5E-4", "mm"), (0.325, 0.65)),
            "centi": (both("0.001", "0.002", "cm"), (10.0, 20.0)),
            "metre": (both("1e-6", "2e-6", "m"), (1.0, 2.0)),
            "inch": (both("0.001", "0.001", "in"), (25.4, 25.4)),
            "angstrom": (both("3250", "6500", "Å"), (0.325, 0.65)),
            "pixel": (both("1.0", "1.0", "pixel"), None),
            "frame": (both("2.0", "2.0", "reference frame"), None),
        },
        "u16x3",
    )


@case
def ome_sizes_that_are_none() -> Case:
    def page(size: str) -> tuple[dict[str, Any], None]:
        return ome_size(f'PhysicalSizeX="{size}" PhysicalSizeY="{size}"'), None

    sizes = {"zero": "0", "negative": "-1", "nan": "NaN", "infinite": "INF", "word": "none"}
    return sized({name: page(size) for name, size in sizes.items()}, "u16x3")


def imagej_size(unit: str, per_unit: tuple[float, float], written: str | None = None) -> Any:
    """Return a page of ImageJ with a unit, and pixels per unit."""
    text = f"ImageJ=1.54f\nimages=1\nunit={written or unit}\nloop=false\n"
    return {"description": text, "resolution": per_unit, "resolutionunit": 1}


@case
def imagej_units() -> Case:
    return sized(
        {
            "micron": (imagej_size("micron", (2, 4)), (0.5, 0.25)),
            "microns": (imagej_size("microns", (2, 4)), (0.5, 0.25)),
            "um": (imagej_size("um", (2, 4)), (0.5, 0.25)),
            "escaped": (imagej_size("µm", (2, 4), "\\u00B5m"), (0.5, 0.25)),
            "nm": (imagej_size("nm", (0.002, 0.004)), (0.5, 0.25)),
            "mm": (imagej_size("mm", (2000, 4000)), (0.5, 0.25)),
            "cm": (imagej_size("cm", (20000, 40000)), (0.5, 0.25)),
            "inch": (imagej_size("inch", (1000, 1000)), (25.4, 25.4)),
            "pixel": (imagej_size("pixel", (1, 1)), None),
            "pixels": (imagej_size("pixels", (2, 2)), None),
            "other": (imagej_size("parsec", (2, 2)), None),
        }
    )


@case
def imagej_unit_for_each_axis() -> Case:
    marks = draw(602)
    text = "ImageJ=1.54f\nimages=1\nunit=um\nyunit=mm\nloop=false\n"
    data = tiff(first(paint(marks)), description=text, resolution=(2, 4000), resolutionunit=1)
    return one(data, marks, pixel_size=(0.5, 0.25))


@case
def resolutions_of_tiff() -> Case:
    def page(per_unit: tuple[float, float], unit: int) -> dict[str, Any]:
        return {"resolution": per_unit, "resolutionunit": unit}

    return sized(
        {
            "centimetres": (page((20000, 40000), 3), (0.5, 0.25)),
            "inches": (page((50800, 25400), 2), (0.5, 1.0)),
            "scan": (page((300, 300), 2), (84.6667, 84.6667)),
            "no_unit": (page((20000, 20000), 1), None),
            "default": (page((72, 72), 2), None),
            "editors": (page((96, 96), 2), None),
            "default_per_cm": (page((28.346456, 28.346456), 3), None),
            "one": (page((1, 1), 2), None),
            "one_per_cm": (page((1, 1), 3), None),
        }
    )


def geo_page(scale: tuple[float, float], *keys: int) -> dict[str, Any]:
    """Return a page of GeoTIFF with a pixel scale and keys, four numbers each."""
    directory = [1, 1, 0, len(keys) // 4, *keys]
    return {
        "extratags": [
            (33550, "d", 3, (*scale, 0.0), True),
            (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5800000.0, 0.0), True),
            (34735, "H", len(directory), directory, True),
        ]
    }


@case
def geotiff_units() -> Case:
    utm = (1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    degrees = (1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)
    feet = (1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 2263)
    return sized(
        {
            "metres": (geo_page((0.05, 0.1), *utm), (5e4, 1e5)),
            "degrees": (geo_page((1e-6, 1e-6), *degrees), None),
            "feet": (geo_page((0.5, 0.5), *feet), (152400.305, 152400.305)),
            "metres_and_72_dpi": (
                geo_page((0.05, 0.1), *utm) | {"resolution": (72, 72), "resolutionunit": 2},
                (5e4, 1e5),
            ),
        }
    )


def png_with_size(per_unit: tuple[int, int], unit: int) -> bytes:
    """Return a PNG file with the chunk pHYs."""
    data = encode_pillow(first(paint(draw(603))))
    return add_chunk(data, b"pHYs" + struct.pack(">IIB", *per_unit, unit))


@case
def sizes_of_png() -> Case:
    sizes: dict[str, tuple[tuple[int, int], int, tuple[float, float] | None]] = {
        "metres": ((2000000, 4000000), 1, (0.5, 0.25)),
        "scan": ((11811, 11811), 1, (84.667, 84.667)),
        "72_dpi": ((2835, 2835), 1, None),
        "96_dpi": ((3780, 3780), 1, None),
        "96_dpi_rounded_down": ((3779, 3779), 1, None),
        "no_unit": ((2000000, 2000000), 0, None),
        "one": ((1, 1), 1, None),
        "zero": ((0, 0), 1, None),
    }
    files = {f"{name}.png": png_with_size(per, unit) for name, (per, unit, _) in sizes.items()}
    images = {f"{name}.png": Image(draw(603), None, size) for name, (*_, size) in sizes.items()}
    return Case(files, images)


@case
def size_of_a_stack_of_imagej() -> Case:
    marks = draw(604)
    samples = paint(marks, "uint16").squeeze()
    data = tiff_with(
        samples[None],
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "ZYX", "unit": "um", "spacing": 2.0},
    )
    return one(data, marks, "u16x3", pixel_size=(0.25, 0.5))


@case
def size_of_an_image_that_is_turned() -> Case:
    """Orientation 6 exchanges x and y."""
    marks = draw(605)
    data = tiff(
        np.rot90(first(paint(marks))),
        resolution=(20000, 40000),
        resolutionunit=3,
        extratags=[(274, "H", 1, 6, True)],
    )
    return one(data, marks, pixel_size=(0.25, 0.5))
