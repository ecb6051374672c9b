"""Images of TIFF files whose axes are known: planes of several channels."""

from __future__ import annotations

import io
import json
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.builders import make_fetch
from unet_ray.errors import ImageError
from unet_ray.image_sources.names import image_uri
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.decoded_image import COLOURS
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.tiff import find_images

T, Z, C, H, W = 2, 3, 4, 20, 31
STACK = np.random.default_rng(0).integers(0, 60_000, (T, Z, C, H, W), np.uint16)
NAMES = ("DAPI", "actin", "tubulin", "488")


def write(samples: np.ndarray, axes: str | None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    kinds = {key: options.pop(key) for key in ("ome", "imagej", "bigtiff") if key in options}
    metadata = options.pop("metadata", {}) | ({} if axes is None else {"axes": axes})
    with tifffile.TiffWriter(buffer, **kinds) as writer:
        writer.write(
            samples, **{"photometric": "minisblack"} | options, metadata=metadata or {"x": 1}
        )
    return buffer.getvalue()


def read(data: bytes) -> dict[str, np.ndarray]:
    """Return the samples of each image by its name."""
    places = find_images(io.BytesIO(data))
    return {
        image_uri("", place.key): decode_image(PlaneFile(make_fetch(data), [], place)).samples
        for place in places
    }


def assert_planes(found: dict[str, np.ndarray], stack_tzcyx: np.ndarray) -> None:
    assert list(found) == [f"#t={t},z={z}" for t in range(T) for z in range(Z)]
    for (t, z), samples in zip(np.ndindex(T, Z), found.values(), strict=True):
        np.testing.assert_array_equal(samples, np.moveaxis(stack_tzcyx[t, z], 0, 2))


@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {}, {"bigtiff": True}], ids=str)
def test_channels_are_one_image_and_each_plane_is_another(kind: dict[str, Any]) -> None:
    assert_planes(read(write(STACK, "TZCYX", **kind)), STACK)


@pytest.mark.parametrize("order", ["".join(each) for each in permutations("TZC")])
def test_pages_may_be_in_any_order(order: str) -> None:
    moved = np.moveaxis(STACK, ["TZC".index(axis) for axis in order], [0, 1, 2])
    for kind in ({"ome": True}, {}):
        assert_planes(read(write(moved, f"{order}YX", **kind)), STACK)


@pytest.mark.parametrize(
    ("axes", "shape", "names"),
    [
        ("CYX", (C,), [""]),
        ("ZYX", (Z,), ["#z=0", "#z=1", "#z=2"]),
        ("TYX", (T,), ["#t=0", "#t=1"]),
        ("ZCYX", (Z, C), ["#z=0", "#z=1", "#z=2"]),
        ("TZYX", (T, 1), ["#t=0", "#t=1"]),
    ],
)
@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {}], ids=str)
def test_only_axes_longer_than_one_are_named(
    axes: str, shape: tuple[int, ...], names: list[str], kind: dict[str, Any]
) -> None:
    data = write(np.zeros((*shape, H, W), np.uint8), axes, **kind)
    assert list(read(data)) == names
    if names == [""]:
        assert decode_image(data).samples.shape == (H, W, C)


def test_channels_have_the_names_of_ome_xml() -> None:
    names = [f" {name} " for name in NAMES]
    data = write(STACK[0, 0], "CYX", ome=True, metadata={"Channel": {"Name": names}})
    assert decode_image(data).channels == NAMES
    (place,) = find_images(io.BytesIO(data))
    some = decode_image(PlaneFile(make_fetch(data), [], place.with_channels([2, 0])))
    assert some.channels == ("tubulin", "DAPI")
    np.testing.assert_array_equal(some.samples, np.moveaxis(STACK[0, 0, [2, 0]], 0, 2))


def test_colours_are_named_and_other_channels_are_not() -> None:
    rgb = np.zeros((H, W, 3), np.uint8)
    assert decode_image(write(rgb, "YXS", photometric="rgb")).channels == COLOURS
    assert decode_image(write(rgb, "YXC", planarconfig="contig")).channels == ()
    assert decode_image(write(np.moveaxis(rgb, 2, 0), "CYX")).channels == ()
    assert decode_image(write(rgb[:, :, 0], "YX")).channels == ()


def test_pages_without_axes_stay_pages() -> None:
    assert list(read(write(STACK[0, :, 0], None))) == ["#page=1", "#page=2", "#page=3"]
    assert list(read(write(STACK[0, :, 0], "QYX"))) == ["#page=1", "#page=2", "#page=3"]


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_a_description_that_does_not_fit_the_pages_is_not_believed(kind: str) -> None:
    data = write(STACK[0, :, 0], "ZYX", **{kind: True})
    for said in (b'SizeZ="3"', b"slices=3"):
        data = data.replace(said, said.replace(b"3", b"5"))
    found = list(read(data))
    assert found in (
        ["#page=1", "#page=2", "#page=3"],
        ["#z=0", "#z=1", "#z=2"],  # OME-XML may describe planes that lie in other files
    )


def make_ome(pixels: str, root: str = "") -> str:
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f"{root}>{pixels}</OME>"
    )


def make_series(sizes: dict[str, int], data: str, channels: int | None = None) -> str:
    text = " ".join(f'Size{axis}="{size}"' for axis, size in sizes.items())
    names = "".join(f'<Channel Name="c{n}"/>' for n in range(channels or sizes["C"]))
    return (
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" {text} Type="uint16">{names}{data}'
        "</Pixels></Image>"
    )


def write_ome(pages: int, text: str) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in range(pages):
            writer.write(
                STACK.reshape(-1, H, W)[page],
                description=text if page == 0 else None,
                metadata=None,
                contiguous=False,
            )
    return buffer.getvalue()


SIZES = {"X": W, "Y": H, "C": 2, "Z": 1, "T": 1}


def test_series_are_images_of_their_own() -> None:
    first = make_series(SIZES, '<TiffData IFD="0" PlaneCount="2"/>')
    second = make_series(SIZES | {"Z": 2}, '<TiffData IFD="2" PlaneCount="4"/>')
    found = read(write_ome(6, make_ome(first + second)))
    assert list(found) == ["#s=0", "#s=1,z=0", "#s=1,z=1"]
    pages = STACK.reshape(-1, H, W)
    np.testing.assert_array_equal(found["#s=1,z=1"], np.moveaxis(pages[4:6], 0, 2))


def test_a_file_of_a_set_holds_its_own_planes_only() -> None:
    data = "".join(
        f'<TiffData FirstZ="{z}" FirstC="{c}" IFD="{c}" PlaneCount="1">'
        f'<UUID FileName="f{z}.tif">urn:{z}</UUID></TiffData>'
        for z in range(3)
        for c in range(2)
    )
    text = make_ome(make_series(SIZES | {"Z": 3}, data), ' UUID="urn:1"')
    assert list(read(write_ome(2, text))) == [""]
    without = make_ome(make_series(SIZES | {"Z": 3}, data))
    assert list(read(write_ome(2, without))) == ["#page=1", "#page=2"]


def test_a_plane_that_lacks_a_channel_has_the_others_by_their_names() -> None:
    data = '<TiffData FirstC="1" IFD="0" PlaneCount="1"/>'
    text = make_ome(make_series(SIZES, data))
    assert decode_image(write_ome(1, text)).channels == ("c1",)
    without = write_ome(1, text.replace('Name="c', 'ID="'))
    (place,) = find_images(io.BytesIO(without))
    assert "the file lacks 0" in place.error
    with pytest.raises(ImageError, match="unsupported: the image has 2 channels without names"):
        decode_image(without)


@pytest.mark.parametrize(
    "text",
    [
        make_ome(make_series(SIZES, "<TiffData/>")).replace('SizeC="2"', 'SizeC="-2"'),
        make_ome(make_series(SIZES, "<TiffData/>")).replace('SizeC="2"', f'SizeC="{10**9}"'),
        make_ome(make_series(SIZES, "<TiffData/>")).replace('SizeC="2"', 'SizeC="two"'),
        make_ome(make_series(SIZES, '<TiffData FirstC="7"/>')),
        make_ome("").replace("<OME", '<!DOCTYPE OME [<!ENTITY a "b">]><OME'),
        make_ome("<Image>"),
    ],
)
def test_a_description_that_makes_no_sense_leaves_pages(text: str) -> None:
    assert list(read(write_ome(2, text))) == ["#page=1", "#page=2"]


def test_tifffile_json_that_makes_no_sense_leaves_pages() -> None:
    for shape, axes in (([2, H, W], "XYZ"), ([0, H, W], "ZYX"), ([2, H], "ZYX"), ([], "")):
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            text = json.dumps({"shape": shape, "axes": axes})
            writer.write(STACK[0, 0, :2], description=text, metadata=None)
        assert list(read(buffer.getvalue())) == ["#page=1", "#page=2"]


def test_a_mask_page_belongs_to_the_page_before_it() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(STACK[0, 0, 0], metadata=None)
        writer.write(np.ones((H, W), bool), subfiletype=4, photometric="mask", metadata=None)
    (place,) = find_images(io.BytesIO(buffer.getvalue()))
    assert place.mask is not None
    assert len(place.pages) == 1
