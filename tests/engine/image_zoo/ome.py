"""OME-TIFF as Bio-Formats, tifffile, Micro-Manager and scanners write it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from tests.engine.image_zoo.cases import (
    HEIGHT,
    WIDTH,
    Case,
    Image,
    RawTiff,
    case,
    channels_first,
    draw,
    draw_stack,
    first,
    one,
    paint,
    plain_tags,
    refused,
    several,
    tiff,
    tiff_of,
    tiff_with,
    wedge,
)

_TYPES = {"float32": "float", "float64": "double"}
_UUIDS = [f"urn:uuid:{number:08d}-0000-4000-8000-000000000000" for number in range(3)]
NAMED = ("DAPI", "actin")


def ome_xml(*images: str, uuid: str = "") -> bytes:
    """Return OME-XML of `Image` elements."""
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    own = f' UUID="{uuid}"' if uuid else ""
    text = f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}"{own}>'
    return (text + "".join(images) + "</OME>").encode()


def image_xml(
    order: str = "XYCZT",
    dtype: str = "uint16",
    names: Sequence[str | None] = (None,),
    tiff_data: str = "<TiffData/>",
    samples: int = 1,
    attributes: str = "",
    number: int = 0,
    **sizes: int,
) -> str:
    """Return an `Image` element.

    Args:
        order: DimensionOrder.
        dtype: Sample type.
        names: Name of each channel; None: it has none.
        tiff_data: `TiffData` elements.
        samples: SamplesPerPixel of each channel.
        attributes: More attributes of `Pixels`.
        number: Number of the image.
        sizes: `z` and `t`, 1 where not given, and `y`, `x`.
    """
    shape = {"x": WIDTH, "y": HEIGHT, "c": len(names) * samples, "z": 1, "t": 1} | sizes
    channels = "".join(
        f'<Channel ID="Channel:{number}:{place}" SamplesPerPixel="{samples}"'
        + (f" Name={quoteattr(name)}" if name is not None else "")
        + "/>"
        for place, name in enumerate(names)
    )
    written = " ".join(f'Size{axis.upper()}="{size}"' for axis, size in shape.items())
    return (
        f'<Image ID="Image:{number}" Name="field {number}"><Pixels ID="Pixels:{number}" '
        f'DimensionOrder="{order}" Type="{_TYPES.get(dtype, dtype)}" {written} {attributes}>'
        f"{channels}{tiff_data}</Pixels></Image>"
    )


def ome_tiff(planes: Sequence[NDArray[Any]], xml: bytes, **options: Any) -> bytes:
    """Return a TIFF file of planes whose first page has the XML."""
    pages: list[dict[str, Any]] = [{"data": plane} for plane in planes]
    pages[0]["description"] = xml
    return tiff_of(*pages, **options)


def name_channels(*names: str) -> dict[str, Any]:
    """Return metadata of tifffile that name the channels."""
    return {"Channel": {"Name": list(names)}}


def ome_of(marks: NDArray[np.int8], axes: str, names: Sequence[str] = (), **options: Any) -> bytes:
    """Return an OME-TIFF file that tifffile makes of uint16 samples in these axes."""
    metadata = {"axes": axes} | (name_channels(*names) if names else {})
    options = {"photometric": "minisblack"} | options
    return tiff_with(paint(marks, "uint16"), ome=True, metadata=metadata, **options)


# --- axes and orders


@case
def ome_cyx() -> Case:
    marks = draw(1, 3)
    return one(ome_of(channels_first(marks), "CYX"), marks, "u16x3")


@case
def ome_zyx_without_channels() -> Case:
    marks = draw_stack(3)
    images = {f"z={z}": marks[z] for z in range(3)}
    return several(ome_of(first(marks), "ZYX"), images, "u16x3")


@case
def ome_tyx() -> Case:
    marks = draw_stack(2)
    images = {f"t={t}": marks[t] for t in range(2)}
    return several(ome_of(first(marks), "TYX"), images, "u16x3")


@case
def ome_zcyx_of_named_channels() -> Case:
    marks = draw_stack(3, channels=2)
    images = {f"z={z}": marks[z] for z in range(3)}
    return several(ome_of(channels_first(marks), "ZCYX", NAMED), images, "dapi,actin")


@case
def ome_tzcyx_of_named_channels() -> Case:
    marks = draw_stack(2, 3, channels=2)
    images = {f"t={t},z={z}": marks[t, z] for t, z in product(range(2), range(3))}
    return several(ome_of(channels_first(marks), "TZCYX", NAMED), images, "dapi,actin")


@case
def ome_czyx_where_channels_come_first() -> Case:
    marks = draw_stack(3, channels=2)
    samples = np.moveaxis(marks, -1, 0)  # CZYX
    images = {f"z={z}": marks[z] for z in range(3)}
    return several(ome_of(samples, "CZYX", NAMED), images, "dapi,actin")


def order_planes(order: str) -> Case:
    """Return a file of 2 channels, 3 depths and 2 times, whose planes have an order."""
    marks = draw_stack(2, 3, channels=2, seed=3)
    sizes = {"C": 2, "Z": 3, "T": 2}
    planes = []
    for place in product(*(range(sizes[axis]) for axis in reversed(order[2:]))):
        at = dict(zip(reversed(order[2:]), place, strict=True))
        planes.append(paint(marks[at["T"], at["Z"], :, :, at["C"]], "uint16"))
    data = ome_tiff(planes, ome_xml(image_xml(order, names=NAMED, z=3, t=2)))
    images = {f"t={t},z={z}": marks[t, z] for t, z in product(range(2), range(3))}
    return several(data, images, "dapi,actin")


@case
def ome_order_xyczt() -> Case:
    return order_planes("XYCZT")


@case
def ome_order_xyctz() -> Case:
    return order_planes("XYCTZ")


@case
def ome_order_xyzct() -> Case:
    return order_planes("XYZCT")


@case
def ome_order_xyztc() -> Case:
    return order_planes("XYZTC")


@case
def ome_order_xytcz() -> Case:
    return order_planes("XYTCZ")


@case
def ome_order_xytzc() -> Case:
    return order_planes("XYTZC")


@case
def ome_tiff_data_names_the_page_of_each_plane() -> Case:
    marks = draw_stack(2, channels=2, seed=4)
    # the pages: z1 actin, z0 actin, z1 DAPI, z0 DAPI
    planes = [paint(marks[z, :, :, c], "uint16") for c in (1, 0) for z in (1, 0)]
    places = "".join(
        f'<TiffData IFD="{2 * (1 - c) + (1 - z)}" FirstC="{c}" FirstZ="{z}" FirstT="0" '
        'PlaneCount="1"/>'
        for z, c in product(range(2), range(2))
    )
    data = ome_tiff(planes, ome_xml(image_xml(names=NAMED, tiff_data=places, z=2)))
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "dapi,actin")


@case
def ome_tiff_data_of_plane_counts() -> Case:
    marks = draw_stack(2, channels=2, seed=5)
    # pages 2 and 3 hold z0, pages 0 and 1 hold z1
    planes = [paint(marks[z, :, :, c], "uint16") for z in (1, 0) for c in (0, 1)]
    places = '<TiffData IFD="2" PlaneCount="2"/><TiffData IFD="0" FirstZ="1" PlaneCount="2"/>'
    data = ome_tiff(planes, ome_xml(image_xml(names=NAMED, tiff_data=places, z=2)))
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "dapi,actin")


@case
def ome_series_of_one_shape() -> Case:
    marks = draw_stack(3, channels=2, seed=6)
    planes = [paint(marks[s, :, :, c], "uint16") for s in range(3) for c in range(2)]
    images = [
        image_xml(
            names=NAMED,
            number=s,
            tiff_data=f'<TiffData IFD="{2 * s}" PlaneCount="2"/>',
        )
        for s in range(3)
    ]
    return several(
        ome_tiff(planes, ome_xml(*images)), {f"s={s}": marks[s] for s in range(3)}, "dapi,actin"
    )


@case
def ome_series_of_different_shapes() -> Case:
    small, stack = draw(7, 2, 30, 44), draw_stack(2, channels=2, seed=7)
    planes = [paint(small[:, :, c], "uint16") for c in range(2)]
    planes += [paint(stack[z, :, :, c], "uint16") for z in range(2) for c in range(2)]
    xml = ome_xml(
        image_xml(names=NAMED, y=30, x=44, tiff_data='<TiffData IFD="0" PlaneCount="2"/>'),
        image_xml(names=NAMED, z=2, number=1, tiff_data='<TiffData IFD="2" PlaneCount="4"/>'),
    )
    images = {"s=0": small, "s=1,z=0": stack[0], "s=1,z=1": stack[1]}
    return several(ome_tiff(planes, xml), images, "dapi,actin")


# --- samples of colours, pyramids


@case
def ome_rgb() -> Case:
    marks = draw(8, 3)
    data = tiff_with(paint(marks), ome=True, metadata={"axes": "YXS"}, photometric="rgb")
    return one(data, marks, "rgb")


@case
def ome_rgb_stack() -> Case:
    marks = draw_stack(2, channels=3, seed=8)
    data = tiff_with(paint(marks), ome=True, metadata={"axes": "ZYXS"}, photometric="rgb")
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "rgb")


@case
def ome_channels_as_planar_samples_of_one_page() -> Case:
    marks = draw(9, 3)
    xml = ome_xml(image_xml(names=(None,), samples=3))
    data = tiff_of(
        {"data": channels_first(paint(marks, "uint16")), "planarconfig": "separate"},
        description=xml,
    )
    return one(data, marks, "u16x3")


@case
def ome_two_colour_images_as_channels() -> Case:
    marks = draw(10, 6)
    planes = [paint(marks[:, :, :3]), paint(marks[:, :, 3:])]
    xml = ome_xml(image_xml(dtype="uint8", names=(None, None), samples=3))
    data = ome_tiff(planes, xml, photometric="rgb")
    right = {"image.tif": tiff(planes[1], photometric="rgb")}
    return refused(one(data, marks[:, :, 3:]), "channels", files=right)


@case
def ome_pyramid_of_channels() -> Case:
    marks = draw(11, 2)
    pages: list[dict[str, Any]] = []
    for channel in range(2):
        plane = paint(marks[:, :, channel], "uint16")
        pages.append({"data": plane, "subifds": 2})
        pages += [{"data": plane[:: 2**n, :: 2**n], "subfiletype": 1} for n in (1, 2)]
    pages[0]["description"] = ome_xml(image_xml(names=NAMED))
    return one(tiff_of(*pages, tile=(16, 16)), marks, "dapi,actin")


@case
def ome_pyramid_of_a_slide() -> Case:
    marks = draw(12, 3, 80, 112)
    samples = paint(marks)
    levels = [{"data": samples[:: 2**n, :: 2**n], "subfiletype": int(n > 0)} for n in range(3)]
    levels[0]["subifds"] = 2
    size = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'
    levels[0]["description"] = ome_xml(
        image_xml(dtype="uint8", samples=3, y=80, x=112, attributes=size)
    )
    data = tiff_of(*levels, tile=(32, 32), photometric="rgb", compression="zlib")
    return one(data, marks, "rgb", pixel_size=(0.5, 0.5))


# --- sets of several files, Micro-Manager, damage


def place_xml(number: int, name: str, **at: int) -> str:
    """Return a `TiffData` element of a plane that lies in the first page of another file."""
    where = " ".join(f'First{axis.upper()}="{index}"' for axis, index in at.items())
    uuid = f'<UUID FileName="{name}">{_UUIDS[number]}</UUID>'
    return f'<TiffData IFD="0" PlaneCount="1" {where}>{uuid}</TiffData>'


@case
def ome_set_of_a_file_per_time() -> Case:
    marks = draw_stack(2, channels=1, seed=13)
    places = "".join(place_xml(t, f"t{t}.ome.tif", t=t) for t in range(2))
    files = {
        f"t{t}.ome.tif": ome_tiff(
            [paint(first(marks[t]), "uint16")],
            ome_xml(image_xml(t=2, tiff_data=places), uuid=_UUIDS[t]),
        )
        for t in range(2)
    }
    images = {f"t{t}.ome.tif": Image(marks[t]) for t in range(2)}
    return Case(files, images, "u16x3")


@case
def ome_set_of_files_of_two_times_each() -> Case:
    """As Micro-Manager splits an acquisition at 4 GB."""
    marks = draw_stack(4, channels=2, seed=36)
    places = "".join(
        f'<TiffData IFD="{2 * (t % 2) + c}" FirstT="{t}" FirstC="{c}" PlaneCount="1">'
        f'<UUID FileName="{t // 2}.ome.tif">{_UUIDS[t // 2]}</UUID></TiffData>'
        for t, c in product(range(4), range(2))
    )
    files = {
        f"{part}.ome.tif": ome_tiff(
            [paint(marks[2 * part + t, :, :, c], "uint16") for t in range(2) for c in range(2)],
            ome_xml(image_xml(names=NAMED, t=4, tiff_data=places), uuid=_UUIDS[part]),
        )
        for part in range(2)
    }
    images = {f"{t // 2}.ome.tif#t={t}": Image(marks[t]) for t in range(4)}
    return Case(files, images, "dapi,actin")


@case
def ome_set_of_a_file_per_channel() -> Case:
    marks = draw(14, 2)
    places = "".join(place_xml(c, f"c{c}.ome.tif", c=c) for c in range(2))
    xml = [
        ome_xml(image_xml(names=(None, None), tiff_data=places), uuid=_UUIDS[c]) for c in range(2)
    ]
    files = {f"c{c}.ome.tif": ome_tiff([paint(marks[:, :, c], "uint16")], xml[c]) for c in range(2)}
    joined = {"joined.ome.tif": ome_of(channels_first(marks), "CYX")}
    return refused(Case(files, {"joined.ome.tif": Image(marks)}, "u16x2"), "channel", files=joined)


@case
def ome_set_of_a_file_per_named_channel() -> Case:
    marks = draw(15, 2)
    places = "".join(place_xml(c, f"c{c}.ome.tif", c=c) for c in range(2))
    xml = [ome_xml(image_xml(names=NAMED, tiff_data=places), uuid=_UUIDS[c]) for c in range(2)]
    files = {f"c{c}.ome.tif": ome_tiff([paint(marks[:, :, c], "uint16")], xml[c]) for c in range(2)}
    joined = {"joined.ome.tif": ome_of(channels_first(marks), "CYX", NAMED)}
    joined_images = {"joined.ome.tif": Image(marks)}
    return refused(Case(files, joined_images, "dapi,actin"), "DAPI|actin|channel", files=joined)


@case
def micro_manager_stack() -> Case:
    """A first page with OME-XML and ImageJ's description, and tags of Micro-Manager's own."""
    marks = draw_stack(2, channels=2, seed=16)
    name = "run_1_MMStack_Pos0.ome.tif"
    xml = ome_xml(
        image_xml(
            names=NAMED,
            z=2,
            tiff_data="".join(
                f'<TiffData IFD="{2 * z + c}" FirstC="{c}" FirstZ="{z}" FirstT="0" PlaneCount="1">'
                f'<UUID FileName="{name}">{_UUIDS[0]}</UUID></TiffData>'
                for z, c in product(range(2), range(2))
            ),
            attributes='PhysicalSizeX="0.325" PhysicalSizeY="0.325"',
        ),
        uuid=_UUIDS[0],
    )
    imagej = "ImageJ=1.48\nimages=4\nchannels=2\nslices=2\nhyperstack=true\nunit=um\n"
    file = RawTiff()
    for z, c in product(range(2), range(2)):
        about = json.dumps({"ChannelIndex": c, "SliceIndex": z, "PixelSizeUm": 0.325})
        tags = plain_tags(bits=16) | {51123: ("s", about)}
        repeated = []
        if not file.pages:
            tags[270] = ("s", xml.decode())
            repeated = [(270, ("s", imagej)), (50838, ("I", [12, 4])), (50839, ("B", b"IJIJ" * 4))]
        file.add(paint(marks[z, :, :, c], "uint16").tobytes(), tags, repeated)
    images = {f"{name}#z={z}": Image(marks[z], None, (0.325, 0.325)) for z in range(2)}
    return Case({name: file.to_bytes()}, images, "dapi,actin")


@case
def ome_acquisition_that_was_stopped() -> Case:
    """z=1 lacks its second channel."""
    marks = draw_stack(2, channels=2, seed=17)
    planes = [paint(marks[z, :, :, c], "uint16") for z, c in ((0, 0), (0, 1), (1, 0))]
    places = "".join(
        f'<TiffData IFD="{ifd}" FirstC="{c}" FirstZ="{z}" PlaneCount="1"/>'
        for ifd, (z, c) in enumerate([(0, 0), (0, 1), (1, 0)])
    )
    data = ome_tiff(planes, ome_xml(image_xml(names=NAMED, z=2, tiff_data=places)))
    return several(data, {"z=0": marks[0], "z=1": None}, "dapi,actin", may_refuse=True)


@case
def ome_with_fewer_pages_than_it_says() -> Case:
    marks = draw_stack(2, channels=2, seed=18)
    planes = [paint(marks[z, :, :, c], "uint16") for z in range(2) for c in range(2)]
    data = ome_tiff(planes[:3], ome_xml(image_xml(names=NAMED, z=2)))
    return several(data, {"z=0": marks[0], "z=1": None}, "dapi,actin", may_refuse=True)


@case
def ome_xml_that_is_cut_off() -> Case:
    """The pages stay pages, and the run says so."""
    marks = draw_stack(2, seed=19)
    xml = ome_xml(image_xml(names=NAMED))[:300]
    images = {f"page={page}": marks[page - 1] for page in (1, 2)}
    planes = [*first(paint(marks, "uint16"))]
    return several(ome_tiff(planes, xml), images, "u16x3", note="axes")


@case
def ome_of_a_companion_file() -> Case:
    """The XML lies in another file: the axes of this one are not known."""
    marks = draw_stack(2, seed=20)
    xml = (
        b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        b'UUID="urn:uuid:00000000-0000-4000-8000-000000000009"><BinaryOnly '
        b'MetadataFile="set.companion.ome" UUID="urn:uuid:00000000-0000-4000-8000-000000000001"/>'
        b"</OME>"
    )
    images = {f"page={page}": marks[page - 1] for page in (1, 2)}
    planes = [*first(paint(marks, "uint16"))]
    return several(ome_tiff(planes, xml), images, "u16x3", note="axes")


@case
def ome_with_a_page_that_it_does_not_name() -> Case:
    """A label or a thumbnail behind the planes, that nothing marks as such."""
    marks = draw(37, 2)
    planes = [paint(marks[:, :, c], "uint16") for c in range(2)]
    xml = ome_xml(image_xml(names=NAMED, tiff_data='<TiffData IFD="0" PlaneCount="2"/>'))
    data = ome_tiff([*planes, planes[0][:20, :20]], xml)
    return one(data, marks, "dapi,actin", may_refuse=True)


@case
def ome_big_endian() -> Case:
    marks = draw_stack(2, channels=2, seed=21)
    data = ome_of(channels_first(marks), "ZCYX", NAMED, byteorder=">")
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "dapi,actin")


@case
def ome_in_bigtiff() -> Case:
    marks = draw_stack(2, channels=2, seed=22)
    data = ome_of(channels_first(marks), "ZCYX", NAMED, bigtiff=True, compression="zlib")
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "dapi,actin")


# --- names of channels


@case
def ome_names_in_another_order_and_more_channels() -> Case:
    marks = draw(23, 3)
    data = ome_of(channels_first(marks), "CYX", ("tubulin", "actin", "DAPI"))
    return one(data, marks[:, :, [2, 1]], "dapi,actin")


@case
def ome_names_in_other_case_with_spaces() -> Case:
    marks = draw(24, 2)
    planes = [paint(marks[:, :, c], "uint16") for c in range(2)]
    data = ome_tiff(planes, ome_xml(image_xml(names=(" Actin ", "dapi"))))
    return one(data, marks[:, :, ::-1], "dapi,actin")


@case
def ome_wavelengths_as_names() -> Case:
    marks = draw(25, 3)
    data = ome_of(channels_first(marks), "CYX", ("405", "488", "561"))
    return one(data, marks[:, :, [1, 0]], "488,405")


@case
def ome_wavelengths_chosen_by_flag() -> Case:
    marks = draw(26, 3)
    data = ome_of(channels_first(marks), "CYX", ("405", "488", "561"))
    flags = ("--channels", "561,405")
    return one(data, marks[:, :, [2, 0]], "u16x2", flags=flags)


@case
def ome_names_chosen_by_flag() -> Case:
    marks = draw(27, 3)
    data = ome_of(channels_first(marks), "CYX", ("tubulin", "actin", "DAPI"))
    return one(data, marks[:, :, [2, 1]], "u16x2", flags=("--channels", "dapi,ACTIN"))


@case
def ome_names_for_a_model_of_colours() -> Case:
    marks = draw(28, 3)
    data = ome_of(channels_first(marks), "CYX", ("DAPI", "actin", "tubulin"))
    return refused(one(data, marks, "u16x3"), "DAPI", "--channels", "0,1,2")


@case
def ome_names_that_the_model_does_not_know() -> Case:
    marks = draw(29, 2)
    data = ome_of(channels_first(marks), "CYX", ("Hoechst", "phalloidin"))
    return refused(one(data, marks, "dapi,actin"), "Hoechst", "--channels", "0,1")


@case
def ome_name_that_two_channels_have() -> Case:
    marks = draw(30, 3)
    planes = [paint(marks[:, :, c], "uint16") for c in range(3)]
    data = ome_tiff(planes, ome_xml(image_xml(names=("DAPI", "actin", "actin"))))
    return refused(one(data, marks[:, :, :2], "dapi,actin"), "actin", "--channels", "0,1")


@case
def ome_names_that_are_numbers_of_other_channels() -> Case:
    """Channel 0 may be the first one or the one of that name."""
    marks = draw(31, 3)
    data = ome_of(channels_first(marks), "CYX", ("2", "1", "0"))
    other = {"image.tif": ome_of(channels_first(marks[:, :, [0, 2]]), "CYX")}
    images = one(data, marks[:, :, [0, 2]], "u16x2", flags=("--channels", "0,1"))
    return refused(images, "0", files=other)


@case
def unnamed_channels_for_a_model_of_names() -> Case:
    marks = draw(32, 2)
    data = ome_of(channels_first(marks), "CYX")
    return refused(one(data, marks, "dapi,actin"), "DAPI", "--channels", "0,1")


@case
def ome_of_floats() -> Case:
    marks = draw_stack(2, channels=3, seed=33)
    samples = channels_first(paint(marks, "float32"))
    metadata = {"axes": "ZCYX"}
    data = tiff_with(samples, ome=True, metadata=metadata, photometric="minisblack")
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "f32x3")


@case
def ome_channels_of_which_one_has_no_name() -> Case:
    marks = draw(34, 2)
    planes = [paint(marks[:, :, c], "uint16") for c in range(2)]
    data = ome_tiff(planes, ome_xml(image_xml(names=("DAPI", None))))
    return refused(one(data, marks, "dapi,actin"), "actin", "--channels", "0,1")


@case
def ome_planes_of_which_one_has_a_rim_of_nan() -> Case:
    marks, valid = draw_stack(2, channels=3, seed=35), wedge()
    samples = paint(marks, "float32")
    samples[1, ~valid, 2] = np.nan
    options = {"ome": True, "photometric": "minisblack"}
    data = tiff_with(channels_first(samples), metadata={"axes": "ZCYX"}, **options)
    images = {f"z={z}": marks[z] for z in range(2)}
    return several(data, images, "f32x3", valid={"z=1": valid})
