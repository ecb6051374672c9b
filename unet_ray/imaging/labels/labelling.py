"""Meaning of mask values: classes, kinds of masks, and the targets that a network learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, MaskKind, show_value
from unet_ray.imaging.labels.colour_values import (
    check_known_colours,
    choose_background,
    find_value,
    infer_kind,
)
from unet_ray.imaging.labels.mask_values import MaskValues, percent
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.regions.components import label_image

_DEFAULT_IGNORED = 255
_MANY_IDS = 20
"""Largest number of values that may be classes; more are object ids, if nothing else decides."""
_MANY_BETWEEN = 8
"""Smallest number of values between two others that is taken for interpolation.

The values must also hold few pixels. Classes are not numbered like that.
"""
_STRETCH = 257
"""Factor by which programs stretch samples of 8 bits to 16: 255 becomes 65535."""
_NAMED_IDS = 8
_BETWEEN_SHARE = 0.1
"""Largest share of the pixels that anti-aliased edges between the two values of a mask may have."""


@dataclass(frozen=True)
class Labelling:
    """Mapping of mask values to targets."""

    kind: MaskKind
    classes: tuple[ClassSpec, ...]
    background: int = 0
    """Value of pixels that belong to no class."""
    ignored: int | None = None
    """Value of pixels that are not counted."""
    foreground: int = 1
    """Smallest value that counts as the class, for the kinds `binary` and `folders`.

    If the background value is equal to it or larger, the values below it count instead.
    """

    def targets(
        self, masks: list[NDArray[Any]], valid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """Return the targets of one image.

        Args:
            masks: HW label images; one, or one per class for the kind `folders`.
            valid: Valid pixels of the image, HW; the others are not counted. None: all are valid.

        Returns:
            uint8, (classes, H, W): 1 in the class, 0 outside, IGNORED for pixels not counted.
        """
        in_class = [self._select_pixels(masks, index) for index in range(len(self.classes))]
        planes = np.stack(in_class).astype(np.uint8)
        if self.ignored is not None:
            for index, plane in enumerate(planes):
                plane[self._mask(masks, index) == self.ignored] = IGNORED
        if valid is not None:
            planes[:, ~valid] = IGNORED
        return planes

    def class_mask(self, masks: list[NDArray[Any]], index: int) -> NDArray[np.bool_]:
        """Return a mask (HW) that is True where the target of one class is 1.

        Args:
            masks: HW label images; one, or one per class for the kind `folders`.
            index: Index of the class in `classes`.
        """
        found = self._select_pixels(masks, index)
        if self.ignored is not None:
            found = found & (self._mask(masks, index) != self.ignored)
        return found

    def is_held(self, values: Sequence[Sequence[tuple[int, int]]], index: int) -> bool:
        """Tell whether an image holds a class, from the (value, pixels) pairs of each mask."""
        masks = []
        for pairs in values:
            found = [value for value, _ in pairs]
            masks.append(np.array(found, np.int64))
        return bool(self.class_mask(masks, index).any())

    def measure_share(self, values: Sequence[Sequence[tuple[int, int]]], index: int) -> float:
        """Return the share of an image's pixels in a class, from the pairs of each mask."""
        mask = values[index] if self.kind == "folders" else values[0]
        found, pixels = np.array(mask, np.int64).T
        in_class = self.class_mask([found] * len(values), index)
        return float(pixels[in_class].sum() / pixels.sum())

    def objects(
        self,
        masks: list[NDArray[Any]],
        index: int,
        valid: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Return the objects of one class as a label image (HW, 0 for background).

        Pixels that are not `valid` belong to no object.

        In masks of the kind `instances`, each id is one object, even if it has several parts. In
        other masks the objects are the 8-connected components.
        """
        mask = self.class_mask(masks, index)
        mask = mask if valid is None else mask & valid
        if self.kind != "instances":
            return label_image(mask)
        ids = masks[0]
        if self.background != 0:
            # 0 is the id of an object here, which takes the unused value of the background
            ids = np.where(ids == 0, self.background, ids.astype(np.int64))
        return np.where(mask, ids, 0)

    def _mask(self, masks: list[NDArray[Any]], index: int) -> NDArray[Any]:
        """Return the mask that holds a class."""
        return masks[index] if self.kind == "folders" else masks[0]

    def _select_pixels(self, masks: list[NDArray[Any]], index: int) -> NDArray[np.bool_]:
        mask = self._mask(masks, index)
        if self.kind == "classes":
            return mask == self.classes[index].id
        if self.kind == "instances":
            return mask != self.background
        if self.background < self.foreground:
            return mask >= self.foreground
        return mask < self.foreground


def find_labelling(
    values: MaskValues,
    classes: tuple[ClassSpec, ...],
    kind: MaskKind | None,
    background: int,
    ignored: int | None,
) -> Labelling:
    """Decide what the mask values of a set mean, and check that each value has a meaning.

    Args:
        values: Mask values of the whole set.
        classes: Classes that the user named; may be empty.
        kind: Kind of masks that the user gave, or None to infer it.
        background: Value of `--background-value`; a colour may be given for masks with colours.
        ignored: Value of `--ignore-value`, likewise.

    Raises:
        InputError: The kind is ambiguous, values do not belong to the classes, or the masks hold
            no class at all.
    """
    is_known = any(spec.colour is not None for spec in classes)
    background = find_value(background, values, is_known=is_known)
    if ignored is not None:
        ignored = find_value(ignored, values, is_known=is_known)
    if is_known:
        kind = _check_colour_kind(kind)
        background = check_known_colours(values, classes, background, ignored)
    elif values.has_colours:
        kind = infer_kind(values, classes, kind)
        background = choose_background(values, background) if kind == "binary" else background
    else:
        _check_negative(values, background, ignored)
    kind = kind or _infer_kind(values, classes, background, ignored)
    if kind == "classes" and not classes:
        raise InputError(
            "masks of the kind classes need --classes (for instance --classes leaf,symptom)"
        )
    if kind != "classes" and kind != "folders" and len(classes) > 1:
        raise InputError(
            f"masks of the kind {kind} hold one class, but --classes names {len(classes)}"
        )
    classes = classes or (ClassSpec(1, "object"),)
    if kind in ("classes", "instances") and background == ignored:
        raise InputError(
            f"--background-value {show_value(background)} is also the --ignore-value; give "
            "--ignore-value none"
        )
    if kind == "binary":
        foreground = _find_binary_foreground(values, ignored)
        return Labelling(kind, classes, background, foreground=foreground)
    if kind == "folders":
        foreground = _find_folders_foreground(values, background, ignored)
        return Labelling(kind, classes, background, foreground=foreground)
    if kind == "instances":
        # an id that happens to be the default --ignore-value is an object like any other
        if ignored == _DEFAULT_IGNORED and _is_dense(values, ignored):
            ignored = None
        if not set(values.pixels) - {background, ignored}:
            raise InputError(
                f"the masks hold no object: {values.nothing_to_learn} and --background-value"
            )
        return Labelling(kind, classes, background, ignored)
    _check_class_values(values, classes, background, ignored)
    return Labelling(kind, classes, background, ignored)


def _check_colour_kind(kind: MaskKind | None) -> MaskKind:
    """Return the kind of masks in which classes have colours; raise InputError for another."""
    if kind not in (None, "classes"):
        raise InputError(
            f"--mask-kind {kind}, but the classes have colours, which only --mask-kind classes "
            "allows; omit --mask-kind or the colours"
        )
    return "classes"


def _check_negative(values: MaskValues, background: int, ignored: int | None) -> None:
    """Raise InputError for values below 0 among several others: no id is negative."""
    negative = sorted(v for v in values.pixels if v < 0 and v not in (background, ignored))
    if negative and len(values.pixels) > 2:
        raise InputError(
            f"mask values below 0: {values.show(negative)}; ids are 0 or more: give --ignore-value "
            f"{negative[0]} if such pixels are not counted, or --background-value {negative[0]} if "
            "they belong to no class"
        )


def _infer_kind(
    values: MaskValues, classes: tuple[ClassSpec, ...], background: int, ignored: int | None
) -> MaskKind:
    found = sorted(values.pixels)
    labels = set(found) - {background, ignored}
    if len(classes) > 1:
        return "classes"
    if classes and labels == {classes[0].id}:
        return "classes"
    if len(found) == 2 and background not in found:  # ilastik writes 1 and 2
        raise InputError(
            f"the masks hold the values {found[0]} and {found[1]}, but neither is the background "
            f"value {background}; give --background-value {found[0]} or {found[1]}, whichever is "
            "the background"
        )
    if len(found) == 2:
        return "binary"
    if len(found) < 2:
        raise InputError(values.nothing_to_learn)
    if _has_soft_edges(values):
        raise InputError(
            f"the masks look two-valued with anti-aliased edges: {values.show_between()} "
            f"({len(values.between)} values); give --mask-kind binary to count values from "
            f"{values.midpoint} as the class, or threshold the files; give --mask-kind instances "
            "if the values are ids of objects"
        )
    if len(labels) > _MANY_IDS and _is_dense(values, ignored):
        return "instances"
    raise InputError(_describe_ambiguity(values, labels, ignored))


def _describe_ambiguity(values: MaskValues, labels: set[int], ignored: int | None) -> str:
    found = sorted(values.pixels)
    shown = ", ".join(str(value) for value in found[:_NAMED_IDS])
    if len(found) > _NAMED_IDS:
        shown += ", …"
    names = ",".join(f"NAME={value}" for value in sorted(labels)[:_MANY_IDS])
    flag = f"{names},…" if len(labels) > _MANY_IDS else names
    uncounted = f" ({ignored} is the --ignore-value, not counted)" if ignored in found else ""
    stretched = ""
    if _is_stretched(labels):
        ids = ", ".join(str(value // _STRETCH) for value in sorted(labels)[:_NAMED_IDS])
        more = ", …" if len(labels) > _NAMED_IDS else ""
        stretched = (
            f"; all values are multiples of {_STRETCH}, like the 8-bit ids {ids}{more} stretched "
            "to 16 bits"
        )
    return (
        f"the masks hold {len(found)} values ({shown}), which may be classes or "
        f"objects: give --classes {flag} for classes{uncounted}, or --mask-kind instances for one "
        "id per object, or --mask-kind binary for two-valued masks with soft edges"
        f"{stretched}"
    )


def _is_stretched(labels: set[int]) -> bool:
    """Tell whether values look like 8-bit ids that a program stretched to 16 bits."""
    return bool(labels) and max(labels) > 255 and not any(value % _STRETCH for value in labels)


def _has_soft_edges(values: MaskValues) -> bool:
    """Tell whether masks look two-valued with anti-aliased edges.

    Such masks hold many values between the two, and few pixels of each.
    """
    if len(values.between) < _MANY_BETWEEN or values.share(values.between) > _BETWEEN_SHARE:
        return False
    # among ids of objects, the highest is as rare as any other
    return 2 * _most_between(values) < values.pixels[max(values.pixels)]


def _most_between(values: MaskValues) -> int:
    return max((values.pixels[v] for v in values.between), default=0)


def _is_dense(values: MaskValues, ignored: int | None) -> bool:
    """Tell whether the values run through 1..n with few gaps, as ids of objects do.

    Values above 255 are always ids, because anti-aliased edges end at 255.
    """
    top = max(values.pixels)
    return top > 255 or (top != ignored and len(values.pixels) > 0.9 * top)


def _find_binary_foreground(values: MaskValues, ignored: int | None) -> int:
    if len(values.pixels) == 1:
        raise InputError(values.nothing_to_learn)
    if len(values.pixels) == 3 and ignored in values.pixels:
        label = max(set(values.pixels) - {ignored})
        raise InputError(
            f"binary masks hold two values, but these hold 3: {values.show(values.pixels)}; if "
            f"{ignored} marks pixels that are not counted, give --mask-kind classes "
            f"--classes NAME={label}, otherwise --ignore-value none"
        )
    _check_soft_edges(
        values,
        f"binary masks hold two values, but these hold {len(values.pixels)}",
        "choose another --mask-kind",
    )
    return values.midpoint


def _find_folders_foreground(values: MaskValues, background: int, ignored: int | None) -> int:
    """Return the smallest value of the class; a set may mix masks of 0/1 and of 0/255."""
    labels = set(values.pixels) - {background}
    if not labels:
        raise InputError(
            f"the masks in class folders hold no class: {values.nothing_to_learn} and "
            "--background-value"
        )
    if values.most_distinct > 2:
        what = (
            f"masks in class folders hold two values, but one of them holds {values.most_distinct}"
        )
        if len(values.pixels) == 3 and ignored in values.pixels:
            raise InputError(
                f"{what}: {values.show(values.pixels)}; threshold them, or give --ignore-value none"
            )
        _check_soft_edges(values, what, "correct them")
        return values.midpoint
    if len(values.pixels) == 2:
        return values.midpoint
    if min(labels) < background < max(labels):
        raise InputError(
            f"the masks in class folders hold {values.show(values.pixels)}, but their background "
            f"({background}) is neither below nor above the others; check --background-value"
        )
    return min(labels) if background < min(labels) else background


def _check_soft_edges(values: MaskValues, what: str, otherwise: str) -> None:
    share = values.share(values.between)
    if share > _BETWEEN_SHARE:
        raise InputError(
            f"{what}: {values.show(values.pixels)}; {percent(share)} of the pixels lie between the "
            f"lowest and the highest, too many for anti-aliased edges (at most "
            f"{_BETWEEN_SHARE:.0%}); threshold them, or {otherwise}"
        )
    if _most_between(values) > values.pixels[max(values.pixels)]:
        raise InputError(
            f"{what}: {values.show(values.pixels)}; a value between holds more pixels than the "
            f"highest, {max(values.pixels)}, which does not look like anti-aliased edges; "
            f"threshold them, or {otherwise}"
        )


def _check_class_values(
    values: MaskValues, classes: tuple[ClassSpec, ...], background: int, ignored: int | None
) -> None:
    ids = {c.id for c in classes}
    named = ", ".join(f"{c.name}={c.id}" for c in classes)
    for value, flag in ((background, "--background-value"), (ignored, "--ignore-value")):
        if value in ids:
            remedy = "none" if flag == "--ignore-value" else "N"
            raise InputError(
                f"{flag} {show_value(value)} is also a class ({named}); give {flag} {remedy}"
            )
    beyond = sorted(set(values.pixels) - ids - {background, ignored})
    if beyond:
        remedy = _suggest_remedy(
            values=values,
            beyond=beyond,
            classes=classes,
            background=background,
            ignored=ignored,
        )
        raise InputError(
            f"mask values without a class: {values.show(beyond)}; the known values are {named}, "
            f"background {show_value(background)}, ignored {show_value(ignored)}; "
            f"{remedy}"
        )
    if not ids & set(values.pixels):
        uncounted = (
            f" ({ignored} is the --ignore-value, not counted)" if ignored in values.pixels else ""
        )
        raise InputError(
            f"no mask holds a pixel of {named}: {values.nothing_to_learn} and --classes{uncounted}"
        )


def _suggest_remedy(
    values: MaskValues,
    beyond: list[int],
    classes: tuple[ClassSpec, ...],
    background: int,
    ignored: int | None,
) -> str:
    share = values.share(beyond)
    if len(beyond) >= _MANY_BETWEEN and share <= _BETWEEN_SHARE:
        return (
            f"interpolation (resizing or JPEG) produces such values, here {percent(share)} of the "
            "pixels: resize masks with nearest neighbour and save them as PNG"
        )
    unstretched = {value // _STRETCH for value in beyond}
    if _is_stretched(set(beyond)) and unstretched <= {spec.id for spec in classes}:
        stretched = ",".join(f"{spec.name}={spec.id * _STRETCH}" for spec in classes)
        return (
            f"they are multiples of {_STRETCH}, like 8-bit ids stretched to 16 bits: give "
            f"--classes {stretched}, or save the masks with 8 bits"
        )
    lowest, *others = sorted(set(values.pixels) - {ignored})
    if background < lowest:
        again = ""
        if len(others) == len(classes):
            pairs = zip(classes, others, strict=True)
            renumbered = ",".join(f"{spec.name}={value}" for spec, value in pairs)
            again = f" --classes {renumbered}"
        return (
            f"no pixel has the background value {background}; if it is {lowest} in these masks, "
            f"give --background-value {lowest}{again}"
        )
    return "name them in --classes, --background-value or --ignore-value"
