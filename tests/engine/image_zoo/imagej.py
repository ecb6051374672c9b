"""ImageJ's TIFF files, and those in which tifffile writes its own axes."""

from __future__ import annotations

import io
import json
from itertools import product
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.engine.image_zoo.cases import (
    Case,
    case,
    channels_first,
    draw,
    draw_stack,
    first,
    one,
    paint,
    refused,
    several,
    tiff_of,
    tiff_with,
)


def imagej(samples: NDArray[Any], axes: str, **options: Any) -> bytes:
    """Return a file of ImageJ, as tifffile writes it."""
    metadata = {"axes": axes} | options.pop("metadata", {})
    return tiff_with(samples, imagej=True, metadata=metadata, **options)


def imagej_pages(samples: NDArray[Any], text: str, **options: Any) -> bytes:
    """Return a file of one page per plane, with a description as ImageJ has it."""
    pages: list[dict[str, Any]] = [{"data": plane} for plane in samples]
    pages[0]["description"] = "ImageJ=1.54f\n" + text
    return tiff_of(*pages, **options)


@case
def imagej_composite() -> Case:
    marks = draw(101, 3)
    data = imagej(channels_first(paint(marks, "uint16")), "CYX", metadata={"mode": "composite"})
    return one(data, marks, "u16x3")


@case
def imagej_hyperstack() -> Case:
    marks = draw_stack(2, 3, channels=2, seed=102)
    data = imagej(channels_first(paint(marks, "uint16")), "TZCYX", metadata={"mode": "grayscale"})
    images = {f"t={t},z={z}": marks[t, z] for t, z in product(range(2), range(3))}
    return several(data, images, "u16x2")


@case
def imagej_hyperstack_of_pages() -> Case:
    """As ImageJ itself writes it: a directory per plane, channels first."""
    marks = draw_stack(3, channels=2, seed=103)
    planes = paint(channels_first(marks).reshape(-1, *marks.shape[1:3]), "uint16")
    text = "images=6\nchannels=2\nslices=3\nhyperstack=true\nmode=color\nloop=false\n"
    data = imagej_pages(planes, text, byteorder=">")
    return several(data, {f"z={z}": marks[z] for z in range(3)}, "u16x2")


@case
def imagej_slices() -> Case:
    marks = draw_stack(3, seed=104)
    data = imagej_pages(paint(first(marks)), "images=3\nslices=3\nloop=false\n")
    return several(data, {f"z={z}": marks[z] for z in range(3)})


@case
def imagej_frames() -> Case:
    marks = draw_stack(3, seed=105)
    data = imagej_pages(paint(first(marks)), "images=3\nframes=3\nfinterval=0.5\nloop=false\n")
    return several(data, {f"t={t}": marks[t] for t in range(3)})


@case
def imagej_images_only() -> Case:
    """Nothing says what the images are: they stay pages."""
    marks = draw_stack(3, seed=106)
    data = imagej_pages(paint(first(marks)), "images=3\nloop=false\n")
    return several(data, {f"page={page}": marks[page - 1] for page in (1, 2, 3)})


@case
def imagej_colour_stack() -> Case:
    marks = draw_stack(3, channels=3, seed=107)
    data = imagej(paint(marks), "ZYXS", photometric="rgb")
    return several(data, {f"z={z}": marks[z] for z in range(3)}, "rgb")


@case
def imagej_colour_image() -> Case:
    marks = draw(108, 3)
    return one(imagej(paint(marks), "YXS", photometric="rgb"), marks, "rgb")


@case
def imagej_counts_that_contradict() -> Case:
    """The pages stay pages, and the run says so."""
    marks = draw_stack(4, seed=109)
    text = "images=4\nchannels=2\nslices=3\nhyperstack=true\n"
    images = {f"page={page}": marks[page - 1] for page in (1, 2, 3, 4)}
    return several(imagej_pages(paint(first(marks)), text), images, note="axes")


def one_directory(data: bytes, seed: int) -> Case:
    """Return a file in which only the first of 6 planes has a directory, and how it is refused."""
    marks = draw_stack(3, channels=2, seed=seed)
    pages = {"image.tif": imagej(channels_first(paint(marks, "uint16")), "ZCYX")}
    images = several(data, {f"z={z}": marks[z] for z in range(3)}, "u16x2")
    return refused(images, "directory; save each image as a page", files=pages)


@case
def imagej_with_one_directory() -> Case:
    """As ImageJ writes stacks beyond 4 GB."""
    samples = channels_first(paint(draw_stack(3, channels=2, seed=110), "uint16"))
    return one_directory(imagej(samples, "ZCYX", truncate=True), 110)


@case
def imagej_with_one_directory_that_is_cut_off() -> Case:
    samples = channels_first(paint(draw_stack(3, channels=2, seed=111), "uint16"))
    data = imagej(samples, "ZCYX", truncate=True)
    return one_directory(data[: -samples.nbytes // 2], 111)


@case
def imagej_channels_whose_slices_have_labels() -> Case:
    marks = draw(112, 2)
    labels = {"mode": "composite", "Labels": ["nuclei", "membrane"]}
    data = imagej(channels_first(paint(marks, "uint16")), "CYX", metadata=labels)
    return one(data, marks, "u16x2")


@case
def imagej_floats() -> Case:
    marks = draw_stack(2, channels=3, seed=113)
    data = imagej(channels_first(paint(marks, "float32")), "TCYX", metadata={"mode": "composite"})
    return several(data, {f"t={t}": marks[t] for t in range(2)}, "f32x3")


# --- axes of tifffile


def shaped(samples: NDArray[Any], axes: str | None, **options: Any) -> bytes:
    """Return a file with tifffile's description of its shape."""
    metadata: dict[str, Any] = {"axes": axes} if axes else {}
    options = {"photometric": "minisblack"} | options
    return tiff_with(samples, shaped=True, metadata=metadata, **options)


@case
def shaped_zcyx() -> Case:
    marks = draw_stack(3, channels=2, seed=120)
    data = shaped(channels_first(paint(marks, "uint16")), "ZCYX")
    return several(data, {f"z={z}": marks[z] for z in range(3)}, "u16x2")


@case
def shaped_ctyx() -> Case:
    marks = draw_stack(3, channels=2, seed=121)
    data = shaped(np.moveaxis(paint(marks, "uint16"), -1, 0), "CTYX")
    return several(data, {f"t={t}": marks[t] for t in range(3)}, "u16x2")


@case
def shaped_cyx() -> Case:
    marks = draw(122, 5)
    return one(shaped(channels_first(paint(marks)), "CYX"), marks, "u8x5")


@case
def shaped_colour_stack() -> Case:
    marks = draw_stack(2, channels=3, seed=123)
    data = shaped(paint(marks), "ZYXS", photometric="rgb")
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "rgb")


@case
def shaped_without_axes() -> Case:
    marks = draw_stack(3, seed=124)
    data = shaped(first(paint(marks)), None)
    return several(data, {f"page={page}": marks[page - 1] for page in (1, 2, 3)})


@case
def shaped_with_one_directory() -> Case:
    samples = channels_first(paint(draw_stack(3, channels=2, seed=125), "uint16"))
    return one_directory(shaped(samples, "ZCYX", truncate=True), 125)


@case
def shaped_with_one_directory_without_axes() -> Case:
    marks = draw_stack(3, seed=126)
    data = shaped(first(paint(marks)), None, truncate=True)
    images = {f"page={page}": marks[page - 1] for page in (1, 2, 3)}
    return several(data, images, may_refuse=True)


@case
def shaped_with_an_axis_of_another_kind() -> Case:
    marks = draw_stack(3, seed=127)
    data = shaped(first(paint(marks)), "QYX")
    return several(data, {f"page={page}": marks[page - 1] for page in (1, 2, 3)})


@case
def two_series_of_tifffile() -> Case:
    """Two arrays that were written one after the other, each with a shape of its own."""
    stack, image = draw_stack(2, channels=2, seed=128), draw(128, 2, 30, 44)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, shaped=True) as writer:
        for marks, axes in ((stack, "ZCYX"), (image, "CYX")):
            samples = channels_first(paint(marks, "uint16"))
            writer.write(samples, metadata={"axes": axes}, photometric="minisblack")
    images = {"s=0,z=0": stack[0], "s=0,z=1": stack[1], "s=1": image}
    return several(buffer.getvalue(), images, "u16x2", may_refuse=True)


@case
def description_that_is_json_of_somebody_else() -> Case:
    marks = draw_stack(2, seed=129)
    pages: list[dict[str, Any]] = [{"data": plane} for plane in paint(first(marks))]
    pages[0]["description"] = json.dumps({"axes": {"x": "time"}, "shape": "none"})
    found = {f"page={page}": marks[page - 1] for page in (1, 2)}
    return several(tiff_of(*pages), found)
