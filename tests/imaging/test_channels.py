"""Which channels of an image a network takes, and what is said where nobody can tell."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import parse_channels
from unet_ray.imaging.channels import (
    ChannelSelection,
    ChosenChannels,
    ImageChannels,
    InputChannels,
    take_channels,
    take_pages,
)
from unet_ray.imaging.codecs.decoded_image import COLOURS, DecodedImage
from unet_ray.imaging.codecs.image_place import WHOLE, ImagePlace, PagePlace
from unet_ray.text import has_controls

FIVE = ("DAPI", "actin", "tubulin", "brightfield", "mito")
NAMES = st.lists(
    st.text("abcDEFßµ 019:", min_size=1, max_size=5).filter(str.strip),
    min_size=1,
    max_size=6,
    unique_by=lambda name: name.strip().casefold(),
)


def named(*names: str) -> ImageChannels:
    return ImageChannels(len(names), names)


def unnamed(count: int) -> ImageChannels:
    return ImageChannels(count)


def trained_on(*chosen: str | int, of: int | None = None) -> InputChannels:
    return InputChannels.of(len(chosen), chosen, of)  # type: ignore[arg-type]


def chosen(flag: str) -> ChosenChannels:
    return ChosenChannels(parse_channels(flag))


def place_of(pages: int, names: tuple[str, ...] = ()) -> ImagePlace:
    """Return the place of an image with a page for each channel; their sizes number them."""
    return ImagePlace(
        WHOLE, 100, tuple(PagePlace(b"II*\0\0\0\0\0", 0, n) for n in range(pages)), channels=names
    )


def why_not(selection: ChannelSelection, image: ImageChannels) -> str | None:
    """Return the message that refuses an image; None if it fits."""
    try:
        selection.locate(image)
    except ImageError as error:
        return error.message
    return None


# --- what fits


@given(NAMES, st.data())
def test_any_order_of_the_names_gives_the_same_samples(
    names: list[str], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    order = data.draw(st.permutations(range(len(names))))
    written = [
        data.draw(st.sampled_from([names[i], names[i].upper().lower(), f"  {names[i]} "]))
        for i in order
    ]
    image = np.arange(6 * len(names)).reshape(2, 3, len(names))
    expected = image[:, :, [names.index(name) for name in wanted]]
    decoded = DecodedImage(image[:, :, order].copy("C"), channels=tuple(written))
    taken = take_channels(decoded, None, trained_on(*wanted))
    assert np.array_equal(taken.samples, expected)
    assert taken.samples.flags.c_contiguous
    place = place_of(len(names), tuple(written))
    pages = take_pages(place, trained_on(*wanted))
    assert pages is not None
    assert [order[page.size] for page in pages.pages] == [names.index(name) for name in wanted]
    assert pages.channels == taken.channels
    # what was chosen before it was read is not chosen again
    assert take_channels(taken, place, trained_on(*wanted)) is taken


@pytest.mark.parametrize(
    ("model", "image", "expected"),
    [
        (trained_on("actin", "DAPI"), named(*FIVE), (1, 0)),
        (trained_on("dapi"), named("Actin", " Dapi "), (1,)),
        (trained_on(*COLOURS), named(*COLOURS), (0, 1, 2)),
        (trained_on(*COLOURS), unnamed(1), (0,)),  # grey, which is repeated
        (trained_on("G"), named(*COLOURS), (1,)),
        (trained_on("G"), unnamed(1), (0,)),
        (trained_on(0, 2, of=5), unnamed(5), (0, 2)),
        (trained_on(0, 2), unnamed(4), (0, 2)),
        (trained_on(0, 1, 2, of=3), unnamed(3), (0, 1, 2)),
        (InputChannels(3), named(*COLOURS), (0, 1, 2)),  # a model of an earlier version
        (InputChannels(3), unnamed(3), (0, 1, 2)),
        (InputChannels(3), unnamed(1), (0,)),
        (InputChannels(5), unnamed(5), (0, 1, 2, 3, 4)),
        (InputChannels(1), unnamed(1), (0,)),
        (InputChannels(1), named(*COLOURS), (0, 1, 2)),  # grey, if the colours are equal
        (InputChannels(2), ImageChannels(2, ("C", "c")), (0, 1)),  # names that say nothing
    ],
    ids=str,
)
def test_an_image_that_fits_gives_the_channels(
    model: InputChannels, image: ImageChannels, expected: tuple[int, ...]
) -> None:
    assert model.locate(image) == expected


@pytest.mark.parametrize(
    ("flag", "image", "expected"),
    [
        ("DAPI,actin", named(*FIVE), (0, 1)),
        ("mito, dapi", named(*FIVE), (4, 0)),
        ("0,2", named(*FIVE), (0, 2)),
        ("2,0", unnamed(3), (2, 0)),
        ("DAPI,4", named(*FIVE), (0, 4)),
        ("G", named(*COLOURS), (1,)),
        ("488,405", named("405", "488"), (1, 0)),  # no index is that large
        ("1", named("0", "1"), (1,)),  # both readings are the same
        ("name:1", named("1", "2"), (0,)),
        ("index:1", named("1", "2"), (1,)),
        ("index:0", unnamed(1), (0,)),
        ("DAPI", ImageChannels(3, ("DAPI", "x", "x")), (0,)),
        ("index:2", ImageChannels(3, ("DAPI", "x", "x")), (2,)),
        ("é: 1", named("É: 1"), (0,)),
    ],
)
def test_the_flag_chooses_by_name_or_by_index(
    flag: str, image: ImageChannels, expected: tuple[int, ...]
) -> None:
    assert chosen(flag).locate(image) == expected


def test_taking_all_channels_copies_nothing() -> None:
    image = DecodedImage(np.zeros((2, 3, 4), np.uint8))
    for channels in (None, InputChannels(4), chosen("0,1,2,3")):
        assert take_channels(image, None, channels) is image
    for place in (None, place_of(1), place_of(5)):
        assert take_pages(place, None) is place
    assert take_pages(place_of(1), chosen("x")) == place_of(1)  # it is looked at when it is decoded
    broken = replace(place_of(5), error="a page is missing")
    assert take_pages(broken, chosen("x")) is broken


def test_names_of_another_number_than_the_channels_are_none() -> None:
    """A decoder of untrusted files tells them."""
    place = place_of(5, FIVE[:3])
    assert ImageChannels.of(place) == unnamed(5)
    taken = take_pages(place, chosen("4,0"))
    assert taken is not None
    assert [page.size for page in taken.pages] == [4, 0]


# --- what does not


@pytest.mark.parametrize(
    ("selection", "image", "message"),
    [
        (
            trained_on("DAPI", "actin"),
            named("DAPI", "tubulin"),
            "there is no channel actin: the image has the channels DAPI, tubulin, the model was "
            "trained on the channels DAPI, actin; choose its channels in that order, "
            "for instance --channels DAPI,tubulin",
        ),
        (
            trained_on("DAPI", "actin"),
            unnamed(5),
            "its channels have no names: the image has 5 channels without names, the model was "
            "trained on the channels DAPI, actin; choose its channels in that order, "
            "for instance --channels 0,1",
        ),
        (trained_on("DAPI"), unnamed(1), "1 channel without a name, the model .* --channels 0$"),
        (
            trained_on(*COLOURS),
            named("DAPI", "actin", "tubulin"),
            "no channel R, G, B: the image has the channels DAPI, actin, tubulin, the model was "
            "trained on the colours R, G, B; .* --channels DAPI,actin,tubulin",
        ),
        (trained_on(*COLOURS), unnamed(3), "3 channels without names, .* the colours R, G, B;"),
        (trained_on("DAPI"), named(*COLOURS), "no channel DAPI: the image has the colours R, G, B"),
        (
            InputChannels(3),
            named("DAPI", "actin", "x"),
            "only the image.s channels have names: .*",
        ),
        (InputChannels(1), named("DAPI"), "channel DAPI, the model .* on 1 channel without a name"),
        (InputChannels(3), unnamed(5), "has 5 channels without names, .* --channels 0,1,2"),
        (InputChannels(2), named(*COLOURS), "the colours R, G, B, .* 2 channels without names"),
        (InputChannels(5), unnamed(3), "the image has too few channels for it"),
        (trained_on(0, 2, of=5), unnamed(4), "4 channels .* the channels 0, 2 of 5 without names"),
        (trained_on(0, 2), unnamed(2), "2 channels without names"),
        (trained_on(0, 1, 2, of=3), unnamed(1), "too few channels"),
        (trained_on(0, 1, 2, of=3), named(*COLOURS), "the colours R, G, B, .* --channels R,G,B"),
        (trained_on(0), named("1,5", "x"), "--channels index:0"),
        (trained_on("a"), ImageChannels(2, ("C", "c")), "do not tell them apart .C, c.* index:0"),
        (chosen("GFP"), named(*FIVE), "no channel GFP: .* DAPI, actin, .* names or indices from 0"),
        (chosen("GFP"), unnamed(2), "2 channels without names; give indices from 0 to 1"),
        (chosen("5"), named(*FIVE), "--channels 5: there is no channel 5: .* from 0 to 4"),
        (chosen("name:0"), unnamed(3), "no channel name:0"),
        (chosen("DAPI,0"), named(*FIVE), "DAPI, 0 are the same channel: .*; give it once"),
        (chosen("x"), ImageChannels(3, ("a", "x", "X")), "2 channels .*; give index:1 or index:2"),
        (
            chosen("1"),
            named("1", "2"),
            "1 is the name of the channel with index 0 and the index of another channel: the image "
            "has the channels 1, 2; give name:1 or index:1",
        ),
    ],
)
def test_an_image_that_does_not_fit_is_refused_in_one_line_with_both_sides(
    selection: ChannelSelection, image: ImageChannels, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as error:
        selection.locate(image)
    assert error.value.error_type == "unsupported"
    assert error.value.message.isprintable()


IMAGES = [
    ImageChannels(len(names) if isinstance(names, tuple) else names, names)
    if isinstance(names, tuple)
    else ImageChannels(names)
    for names in (1, 2, 3, 5, COLOURS, ("DAPI",), ("0", "1", "2"), ("a,b", "c", "d"), FIVE)
] + [ImageChannels(3, ("x", "X", "y"))]
MODELS = [
    *(InputChannels(count) for count in (1, 2, 3)),
    *(trained_on(*names) for names in (COLOURS, ("DAPI", "actin"), ("mito",), ("2", "0"))),
    *(trained_on(*indices, of=of) for indices, of in (((0, 1, 2), 3), ((0, 2), None), ((4,), 5))),
]


@pytest.mark.parametrize(("model", "image"), [*itertools.product(MODELS, IMAGES)], ids=str)
def test_the_remedy_of_a_message_works(model: InputChannels, image: ImageChannels) -> None:
    message = why_not(model, image)
    if message is None:
        assert len(model.locate(image)) in (model.count, image.count)
    elif image.count < model.count:
        assert "too few channels" in message
    else:
        _, _, remedy = message.rpartition("for instance --channels ")
        assert chosen(remedy).locate(image) == tuple(range(model.count))


def test_long_and_hostile_names_are_cut_and_escaped() -> None:
    names = ("\x1b]0;x\x07" + "y" * 300, *(f"c{i}" for i in range(40)))
    with pytest.raises(ImageError) as error:
        trained_on("DAPI").locate(named(*names))
    assert error.value.message.isprintable()
    assert len(error.value.message) < 500


# --- what a model may hold, and the flag


@pytest.mark.parametrize(
    ("count", "channels", "of", "message"),
    [
        (2, ("a",), None, "input_channels: 1 given, but the network takes 2"),
        (1, (), None, "input_channels: 0 given, but the network takes 1"),
        (2, ("a", " A"), None, "input_channels repeats a channel: a, a"),
        (2, (1, 1), None, "input_channels repeats a channel: 1, 1"),
        (2, (0, 64), None, "input_channels 64: choose 0 to 63"),
        (1, (-1,), None, "input_channels -1: choose 0 to 63"),
        (2, ("a", 1), None, "mixes names and indices"),
        (1, ("\n",), None, "is not a text of 1 to 256 printable characters"),
        (1, ("a" * 257,), None, "is not a text of 1 to 256 printable characters"),
        (2, (0, 2), 2, "image_channels 2: choose 3 to 64"),
        (1, (0,), 65, "image_channels 65: choose 1 to 64"),
    ],
)
def test_channels_that_no_network_can_take_are_refused(
    count: int, channels: tuple[str, ...] | tuple[int, ...], of: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        InputChannels.of(count, channels, of)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("", "--channels '': an empty name"),
        ("DAPI,,actin", "an empty name"),
        ("DAPI,\x1bactin", "printable characters"),
        ("a" * 300, "printable characters"),
        ("DAPI,dapi", "--channels DAPI,dapi: a channel is given twice"),
        ("index:x", "--channels index:x: give an index from 0 to 63"),
        ("index:64", "--channels index:64: give an index from 0 to 63"),
        (",".join(f"c{i}" for i in range(65)), "65 channels; give at most 64"),
    ],
)
def test_a_flag_that_cannot_work_is_refused_in_one_line(flag: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_channels(flag)
    assert str(error.value).isprintable()


@given(st.text(max_size=12), st.lists(st.text(max_size=4), max_size=4), st.integers(1, 4))
def test_any_flag_finds_channels_or_says_why_not(flag: str, names: list[str], count: int) -> None:
    image = ImageChannels(len(names) or count, tuple(names))
    try:
        selection = chosen(flag)
    except InputError:
        return
    message = why_not(selection, image)
    if message is not None:
        assert not has_controls(message)
        return
    places = selection.locate(image)
    assert len(places) == len(set(places)) == flag.count(",") + 1
    assert all(0 <= place < image.count for place in places)


def test_an_only_channel_may_have_any_name_for_a_model_that_read_none() -> None:
    grey = InputChannels(1)
    with pytest.raises(ImageError, match="only the image's channels have names"):
        grey.locate(ImageChannels(1, ("DAPI",)))
    older = replace(grey, takes_any_name=True)
    assert older.locate(ImageChannels(1, ("DAPI",))) == (0,)
    with pytest.raises(ImageError, match="only the image's channels have names"):
        older.locate(ImageChannels(2, ("DAPI", "actin")))
