"""Channels of an image, and which of them a network takes: by name, by index, or by their count.

Example, a model that was trained on `--channels actin,DAPI`::

    channels of the image    DAPI   brightfield   actin
    index                    0      1             2
    channels of the model    actin, DAPI
    located                  2, 0

Names are compared without case and without spaces around them. The colours of a photograph are
channels with names, R, G and B, so that a fluorescence image never passes for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import (
    MAX_CHANNELS,
    NAME_RULE,
    check_range,
    fold_channel,
    is_channel_index,
    is_name,
)
from unet_ray.imaging.codecs.decoded_image import COLOURS, DecodedImage
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.text import escape_controls

_COLOUR_KEYS = tuple(map(fold_channel, COLOURS))
_SHOWN_NAMES = 16
"""Largest number of names that a message shows."""
_SHOWN_CHARACTERS = 40
"""Longest part of a name that a message shows."""


@dataclass(frozen=True)
class ImageChannels:
    """Channels that an image has."""

    count: int
    """Number of channels."""
    names: tuple[str, ...] = ()
    """Names in the order of the channels, as the file has them; empty: it has none."""

    @staticmethod
    def of(image: DecodedImage | ImagePlace) -> ImageChannels:
        """Return the channels of a decoded image, or of an image with a page for each channel."""
        count = image.samples.shape[2] if isinstance(image, DecodedImage) else len(image.pages)
        has_names = len(image.channels) == count
        return ImageChannels(count, image.channels if has_names else ())

    @property
    def keys(self) -> tuple[str, ...]:
        """Names in the form for comparison; empty if they do not distinguish all channels."""
        keys = tuple(map(fold_channel, self.names))
        are_distinct = len(set(keys)) == len(keys) == self.count
        are_sound = are_distinct and all(map(is_name, self.names))
        return keys if are_sound else ()

    @property
    def kind(self) -> tuple[int, frozenset[str]]:
        """Equal for images with the same channels, in any order."""
        return self.count, frozenset(self.keys)

    @property
    def is_colour(self) -> bool:
        """True if the channels are R, G and B."""
        return self.keys == _COLOUR_KEYS

    @property
    def is_grey(self) -> bool:
        """True if there is one channel, and it has no name."""
        return self.count == 1 and not self.keys

    def __str__(self) -> str:
        """Describe the channels for a message: `the channels DAPI, actin`."""
        if self.is_colour:
            return "the colours R, G, B"
        if self.keys:
            return f"the channel{'s' * (self.count > 1)} {show_names(self.names)}"
        counted = "1 channel" if self.count == 1 else f"{self.count} channels"
        if self.names:
            return f"{counted} whose names do not tell them apart ({show_names(self.names)})"
        lacking = "a name" if self.count == 1 else "names"
        return f"{counted} without {lacking}"


def show_names(names: Sequence[str]) -> str:
    """Return the names of channels for a message: the first of many, none of them long."""
    shown = []
    for name in names[:_SHOWN_NAMES]:
        short = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…"
        shown.append(escape_controls(short))
    num_more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {num_more} more" if num_more else "")


@dataclass(frozen=True)
class ChosenChannels:
    """Channels chosen with `--channels`, by name or by index from 0."""

    tokens: tuple[str, ...]
    """Name or index of each channel, as `flags.parse_channels` returns them."""

    def locate(self, image: ImageChannels) -> tuple[int, ...]:
        """Return the index of each channel in an image.

        Raises:
            ImageError: `unsupported`: the image does not have a channel, or a token means two.
        """
        places = tuple(self._find(token, image) for token in self.tokens)
        place, times = Counter(places).most_common(1)[0]
        if times > 1:
            same = [t for t, found in zip(self.tokens, places, strict=True) if found == place]
            self._refuse(
                f"{show_names(same)} are the same channel: the image has {image}; give it once"
            )
        return places

    def _find(self, token: str, image: ImageChannels) -> int:
        name, index = _read_token(token)
        named = [place for place, each in enumerate(image.names) if fold_channel(each) == name]
        has_index = index is not None and index < image.count
        if len(named) > 1:
            ways = " or ".join(f"index:{place}" for place in named)
            self._refuse(
                f"{len(named)} channels have the name {show_names([token])}: the image has {image};"
                f" give {ways}"
            )
        if named and has_index and named != [index]:
            self._refuse(
                f"{token} is the name of the channel with index {named[0]} and the index of "
                f"another channel: the image has {image}; give name:{token} or index:{token}"
            )
        if named:
            return named[0]
        if index is None or not has_index:
            kinds = "names or indices" if image.names else "indices"
            self._refuse(
                f"there is no channel {show_names([token])}: the image has {image}; give {kinds} "
                f"from 0 to {image.count - 1}"
            )
        return index

    def _refuse(self, message: str) -> NoReturn:
        raise ImageError("unsupported", f"--channels {show_names(self.tokens)}: {message}")


def _read_token(token: str) -> tuple[str | None, int | None]:
    """Return the name, in the form for comparison, and the index that a token may mean."""
    kind, _, rest = token.partition(":")
    if kind == "name" and rest:
        return fold_channel(rest), None
    if kind == "index" and rest:
        return None, int(rest)
    return fold_channel(token), int(token) if is_channel_index(token) else None


@dataclass(frozen=True)
class InputChannels:
    """Channels that a network was trained on.

    They have names, or indices, or neither. With neither, any image with as many channels fits,
    unless its channels have names other than colours.
    """

    count: int
    """Number of channels that the network takes."""
    names: tuple[str, ...] = ()
    """Names of the channels."""
    indices: tuple[int, ...] = ()
    """Indices of the channels in images whose channels have no names."""
    image_channels: int | None = None
    """Number of channels of these images; None: not known, or it varied."""
    takes_any_name: bool = False
    """True if a single channel may have any name: the version of the model read no names."""

    @staticmethod
    def of(
        count: int, chosen: tuple[str, ...] | tuple[int, ...] | None, image_channels: int | None
    ) -> InputChannels:
        """Make the channels from names or indices, as a model stores them; None: neither."""
        if chosen is None:
            return InputChannels(count, image_channels=image_channels)
        names = tuple(each for each in chosen if isinstance(each, str))
        indices = tuple(each for each in chosen if not isinstance(each, str))
        if not all(type(each) in (str, int) for each in chosen):
            raise InputError(f"input_channels {chosen!r:.80}: give names or indices")
        if not chosen:
            raise InputError(f"input_channels: 0 given, but the network takes {count}")
        return InputChannels(count, names, indices, image_channels)

    @property
    def chosen(self) -> tuple[str, ...] | tuple[int, ...] | None:
        """Names or indices, as a model stores them; None: neither."""
        return self.names or self.indices or None

    def __post_init__(self) -> None:
        for name in self.names:
            if not is_name(name):
                raise InputError(f"input_channels: {name!r:.80} is not {NAME_RULE}")
        check_range("input_channels", self.indices, 0, MAX_CHANNELS - 1)
        most = range(0) if self.image_channels is None else [self.image_channels]
        check_range("image_channels", most, max(self.indices, default=0) + 1, MAX_CHANNELS)
        if self.names and self.indices:
            raise InputError("input_channels mixes names and indices; give only one kind")
        for keys in (tuple(map(fold_channel, self.names)), self.indices):
            if len(keys) not in (0, self.count):
                raise InputError(
                    f"input_channels: {len(keys)} given, but the network takes {self.count}"
                )
            if len(set(keys)) < len(keys):
                shown = show_names([*map(str, keys)])
                raise InputError(f"input_channels repeats a channel: {shown}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names in the form for comparison."""
        return tuple(map(fold_channel, self.names))

    @property
    def is_colour(self) -> bool:
        """True if all channels are colours, so that a grey image has them too."""
        return bool(self.names) and set(self.keys) <= set(_COLOUR_KEYS)

    def locate(self, image: ImageChannels) -> tuple[int, ...]:
        """Return the index in an image of each channel that the network takes.

        If preprocessing must convert the whole image, such as a grey one for a network of colours,
        the indices are those of all its channels.

        Raises:
            ImageError: `unsupported`: the image lacks channels, or it is unclear which of its
                channels they are.
        """
        everything = tuple(range(image.count))
        if self.names and image.names:
            found = [*map(fold_channel, image.names)]
            pairs = zip(self.names, self.keys, strict=True)
            lacking = [name for name, key in pairs if found.count(key) != 1]
            if lacking:
                self._refuse(image, f"there is no channel {show_names(lacking)}")
            return tuple(map(found.index, self.keys))
        if self.names:
            if image.is_grey and self.is_colour:
                return everything
            self._refuse(image, "its channels have no names")
        is_only = self.takes_any_name and self.count == image.count == 1
        if image.keys and not is_only and (self.indices or not image.is_colour):
            self._refuse(image, "only the image's channels have names")
        if self.indices:
            known = self.image_channels
            if image.count <= max(self.indices) or known not in (None, image.count):
                self._refuse(image, "the number of channels differs")
            return self.indices
        # grey stands for colours, and colours become grey where they are equal
        stands_for_colours = image.count == 1 and self.count == len(COLOURS)
        if image.count != self.count and self.count > 1 and not stands_for_colours:
            self._refuse(image, "the number of channels differs")
        return everything

    def _refuse(self, image: ImageChannels, reason: str) -> NoReturn:
        found = f"{reason}: the image has {image}, the model was trained on {self}; "
        if image.count < self.count:
            raise ImageError("unsupported", f"{found}the image has too few channels for it")
        order = " in that order" if self.count > 1 else ""
        names = image.names[: self.count]
        is_plain = not any("," in name or ":" in name or is_channel_index(name) for name in names)
        if image.keys and is_plain:
            example = ",".join(names)
        else:
            prefix = "index:" if image.names else ""
            example = ",".join(f"{prefix}{place}" for place in range(self.count))
        raise ImageError(
            "unsupported",
            f"{found}choose its channels{order}, for instance --channels {example}",
        )

    def __str__(self) -> str:
        """Describe the channels for a message, as those of an image are."""
        if self.names:
            return str(ImageChannels(self.count, self.names))
        if self.indices:
            known = "" if self.image_channels is None else f" of {self.image_channels}"
            shown = ", ".join(map(str, self.indices))
            return f"the channel{'s' * (self.count > 1)} {shown}{known} without names"
        if self.count == len(COLOURS):
            return f"{self.count} channels, colours or without names"
        return str(ImageChannels(self.count))


ChannelSelection = ChosenChannels | InputChannels
"""Choice of channels for each image; both kinds have the method `locate`."""


def has_channel_pages(place: ImagePlace | None) -> bool:
    """Tell whether each channel of an image is a page of its own in its file."""
    return place is not None and len(place.pages) > 1 and not place.error


def take_pages(place: ImagePlace | None, channels: ChannelSelection | None) -> ImagePlace | None:
    """Return the place of an image with only the pages of the channels that are taken.

    Args:
        place: Place of the image; None: the image is the whole file.
        channels: Channels that are taken; None: all.

    Returns:
        The place, unchanged unless each channel is a page of its own: see `take_channels`.

    Raises:
        ImageError: `unsupported`: the image does not have the channels.
    """
    if place is None or channels is None or not has_channel_pages(place):
        return place
    image = ImageChannels.of(place)
    return replace(place, channels=image.names).with_channels(channels.locate(image))


def take_channels(
    image: DecodedImage, place: ImagePlace | None, channels: ChannelSelection | None
) -> DecodedImage:
    """Return an image, or a window of it, with the channels that are taken.

    Args:
        image: Decoded image.
        place: Place of the image; if `take_pages` took its channels, the image is unchanged.
        channels: Channels that are taken; None: all.

    Raises:
        ImageError: `unsupported`: the image does not have the channels.
    """
    if channels is None or has_channel_pages(place):
        return image
    return image.with_channels(channels.locate(ImageChannels.of(image)))
