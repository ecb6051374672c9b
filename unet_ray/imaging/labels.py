"""What the values of mask files mean: classes, kinds of masks, and the targets that a network learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.metrics import IGNORED

MaskKind = Literal["classes", "binary", "instances", "folders"]

_DEFAULT_IGNORED = 255
_MANY_IDS = 20
"""More distinct values than this are object ids, not classes, where nothing else tells."""


@dataclass(frozen=True)
class ClassSpec:
    """A class: its id in masks and tables, and its name."""

    id: int
    name: str


def parse_classes(text: str | None) -> tuple[ClassSpec, ...]:
    """Return the classes of `--classes`: names alone number from 1, `name=id` gives the id.

    Example: "leaf,symptom" → leaf 1, symptom 2; "a=1,b=7" → a 1, b 7.

    Raises: InputError — empty, repeated or half-numbered classes.
    """
    if text is None:
        return ()
    pairs = [part.strip().partition("=") for part in text.split(",")]
    numbered = [bool(equals) for _, equals, _ in pairs]
    if any(numbered) and not all(numbered):
        raise InputError(f"--classes {text}: number all classes or none (a,b or a=1,b=7)")
    try:
        classes = tuple(
            ClassSpec(int(number) if equals else index, name.strip())
            for index, (name, equals, number) in enumerate(pairs, 1)
        )
    except ValueError:
        raise InputError(f"--classes {text}: an id is no whole number (a=1,b=7)") from None
    if not all(c.name for c in classes) or len({c.name for c in classes}) < len(classes):
        raise InputError(f"--classes {text}: class names must be there and differ")
    if len({c.id for c in classes}) < len(classes) or any(c.id < 0 for c in classes):
        raise InputError(f"--classes {text}: class ids must differ and be 0 or more")
    return classes


@dataclass(frozen=True)
class MaskValues:
    """What the masks of a whole set hold."""

    pixels: Mapping[int, int]
    """Value → pixels of it."""
    masks: Mapping[int, int]
    """Value → masks that hold it."""
    most_distinct: int = 0
    """Most values that one mask holds."""


@dataclass(frozen=True)
class Labelling:
    """How mask values become targets."""

    kind: MaskKind
    classes: tuple[ClassSpec, ...]
    background: int = 0
    """Value of pixels of no class."""
    ignored: int | None = None
    """Value of pixels that are not counted."""
    foreground: int = 1
    """Of a `binary` mask: the value of the class."""

    def targets(self, masks: list[NDArray[Any]]) -> NDArray[np.uint8]:
        """Return the targets of one image, (classes, H, W): 1 the class, 0 not, IGNORED not counted.

        Args:
            masks — HW label images: one, or for `folders` one per class.
        """
        if self.kind == "folders":
            return np.stack([(mask != self.background).astype(np.uint8) for mask in masks])
        (mask,) = masks
        if self.kind == "binary":
            return (mask == self.foreground)[None].astype(np.uint8)
        if self.kind == "instances":
            planes = (mask != self.background)[None].astype(np.uint8)
        else:
            planes = np.stack([(mask == c.id).astype(np.uint8) for c in self.classes])
        if self.ignored is not None:
            planes[:, mask == self.ignored] = IGNORED
        return planes


def find_labelling(
    values: MaskValues,
    classes: tuple[ClassSpec, ...],
    kind: MaskKind | None,
    background: int,
    ignored: int | None,
) -> Labelling:
    """Decide what a set's mask values mean, from all of them, and check that each is accounted for.

    Args:
        values — of the whole set.
        classes — as named by the user; may be empty.
        kind — as given by the user, or None: to be inferred.
        background, ignored — `--background-value`, `--ignore-value`.

    Raises: InputError — ambiguous kinds, values beyond the classes, masks without any class.
    """
    kind = kind or _infer_kind(values, classes, background, ignored)
    if kind == "classes" and not classes:
        raise InputError("masks of classes need --classes (for instance --classes leaf,symptom)")
    if kind != "classes" and kind != "folders" and len(classes) > 1:
        raise InputError(f"masks of the kind {kind} hold one class, --classes names {len(classes)}")
    classes = classes or (ClassSpec(1, "object"),)
    if kind == "binary":
        return Labelling(kind, classes, background, None, _binary_foreground(values))
    if kind == "folders":
        _check_folders(values, background)
        return Labelling(kind, classes, background, None)
    if kind == "instances":
        # an id that happens to be the default --ignore-value is an object like any other
        ignored = None if ignored == _DEFAULT_IGNORED and _is_dense(values, ignored) else ignored
        if not set(values.pixels) - {background, ignored}:
            raise InputError("the masks hold no object; check --masks and --background-value")
        return Labelling(kind, classes, background, ignored)
    _check_class_values(values, classes, background, ignored)
    return Labelling(kind, classes, background, ignored)


def _infer_kind(values: MaskValues, classes: tuple[ClassSpec, ...], background: int, ignored: int | None) -> MaskKind:
    found = sorted(values.pixels)
    labels = set(found) - {background, ignored}
    if len(classes) > 1 or (classes and labels == {classes[0].id}):
        return "classes"
    if len(found) == 2:
        return "binary"
    if len(found) < 2:
        raise InputError(f"all masks hold only the value {found}; there is nothing to learn; check --masks")
    if len(labels) > _MANY_IDS and _is_dense(values, ignored):
        return "instances"
    shown = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    raise InputError(
        f"the masks hold {len(found)} values ({shown}), which may be classes or objects: give --classes NAME,NAME "
        "for classes, or --mask-kind instances for one id per object, or --mask-kind binary for two-valued masks"
    )


def _is_dense(values: MaskValues, ignored: int | None) -> bool:
    """Tell whether the values run through 1..n with few gaps, as object ids do (anti-aliased edges end at 255)."""
    top = max(values.pixels)
    return top > 255 or (top != ignored and len(values.pixels) > 0.9 * top)


def _binary_foreground(values: MaskValues) -> int:
    found = sorted(values.pixels)
    if len(found) != 2:
        shown = ", ".join(f"{v} ({values.pixels[v]} px in {values.masks[v]} masks)" for v in found[:6])
        raise InputError(
            f"binary masks hold two values, these {len(found)}: {shown}{', …' if len(found) > 6 else ''}; "
            "threshold them, or choose another --mask-kind"
        )
    return found[1]


def _check_folders(values: MaskValues, background: int) -> None:
    beyond = sorted(set(values.pixels) - {background})
    if values.most_distinct > 2:
        raise InputError(
            f"masks in class folders hold two values, one of them holds {values.most_distinct} (there are "
            f"{beyond[:6]}); threshold them"
        )


def _check_class_values(
    values: MaskValues, classes: tuple[ClassSpec, ...], background: int, ignored: int | None
) -> None:
    ids = {c.id for c in classes}
    named = ", ".join(f"{c.name}={c.id}" for c in classes)
    for value, flag in ((background, "--background-value"), (ignored, "--ignore-value")):
        if value in ids:
            remedy = "none" if flag == "--ignore-value" else "N"
            raise InputError(f"{flag} {value} is also a class ({named}); give {flag} {remedy}")
    beyond = sorted(set(values.pixels) - ids - {background, ignored})
    if beyond:
        shown = ", ".join(f"{v} ({values.pixels[v]} px in {values.masks[v]} masks)" for v in beyond[:6])
        raise InputError(
            f"mask values beyond the classes: {shown}{', …' if len(beyond) > 6 else ''}; known are {named}, background "
            f"{background}, ignored {ignored}; name them in --classes, --background-value or --ignore-value"
        )
    if not ids & set(values.pixels):
        raise InputError(f"no mask holds a pixel of {named}; check --classes (found: {sorted(values.pixels)})")
