"""Pairing of image files and mask files by their names.

The names of a pair are equal but for their suffixes, or for one affix that is the same in the whole
set (`001.jpg` and `001_mask.png`). Each way of pairing that is not plain equality must pair every
mask with an image of its own, and is said. Nothing is paired by likeness.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from unicodedata import normalize

from unet_ray.errors import InputError
from unet_ray.labelled_data.pairing.affixes import (
    Affix,
    base_name,
    cut_path,
    list_common_affixes,
    make_cutter,
    remove_suffix,
)
from unet_ray.labelled_data.pairing.mixed_folders import part_one_folder
from unet_ray.storage.listing import Listing
from unet_ray.storage.storage import FileEntry

_NUMBER, _CHANNEL = re.compile("[0-9]+"), "0000"
_CLASSES_AND_OBJECTS = frozenset({"SegmentationClass", "SegmentationObject"})
"""Folders of an export in the form of Pascal VOC: the same objects, twice."""


@dataclass(frozen=True)
class Pair:
    """One image file and its mask files."""

    image: FileEntry
    masks: tuple[FileEntry, ...]
    """Masks of the image: one, or one per class if masks lie in a folder per class."""


@dataclass(frozen=True)
class Pairing:
    """Pairs of a set, and what has no partner."""

    pairs: tuple[Pair, ...]
    unlabelled: tuple[FileEntry, ...] = ()
    """Images without a mask, which are left out."""
    orphans: tuple[str, ...] = ()
    """Paths of masks without an image; each counts as an image that cannot be used."""
    notes: tuple[str, ...] = ()
    """Messages about how the names were paired, where they are not equal."""
    incomplete: tuple[str, ...] = ()
    """Images with masks of some classes only, and which is missing; they cannot be used."""


def looks_like_folders(images: Listing, masks: Listing) -> bool:
    """Tell whether masks lie at `masks/<class>/<path>`, with the same paths as the images.

    Raises:
        InputError: The folders hold the same objects in two ways.
    """
    stems = {remove_suffix(entry.path) for entry in images.entries}
    mask_stems = {remove_suffix(entry.path) for entry in masks.entries}
    if {stem.partition("/")[0] for stem in mask_stems} >= _CLASSES_AND_OBJECTS:
        raise InputError(
            f"--masks {masks.root.uri} holds masks of classes and of objects; give "
            f"{masks.root.uri}/SegmentationClass, or {masks.root.uri}/SegmentationObject with "
            "--mask-kind instances"
        )
    return not stems & mask_stems and all(
        "/" in stem and stem.partition("/")[2] in stems for stem in mask_stems
    )


def pair_files(images: Listing, masks: Listing, affix: str | None = None) -> Pairing:
    """Pair each mask with the image of its name.

    Args:
        images: Image files.
        masks: Mask files; they may lie among the images.
        affix: What mask names have beside the names of their images: a suffix as `_mask`, a prefix
            as `mask_`, or a pattern with `*` for the image. None: found out.

    Raises:
        InputError: The names do not say which mask belongs to which image.
    """
    image_entries, mask_entries, notes = part_one_folder(images, masks, affix)
    if affix:
        named, mask_entries = _with_affix(mask_entries, affix)
        notes += named
        ways = _list_given_ways(image_entries, affix, mask_entries)
    else:
        ways = _list_ways(image_entries, mask_entries)
    best = _match(ways[0][0], image_entries, mask_entries)
    for steps in ways[1:]:
        if best.is_whole:
            break
        found = [_match(step, image_entries, mask_entries) for step in steps]
        whole = _choose([each for each in found if each.is_whole], masks.root.uri)
        if affix:  # what the user gave need not pair all
            best = max([best, *found], key=lambda each: len(each.pairs))
        best = whole or best
    if best.doubts:
        raise InputError(f"{best.doubts[0]}; keep one, or name the files by a glob")
    if not best.pairs:
        raise InputError(
            f"no mask in {masks.root.uri} has the name of an image in {images.root.uri}: "
            f"{mask_entries[0].path if mask_entries else 'no mask'}, {image_entries[0].path}; give "
            "--mask-affix with what mask names have beside those of their images (_mask, mask_, "
            "a pattern such as mask_*_v2, or * for equal names in other folders), or globs for "
            "--images and --masks"
        )
    paired = {pair.image.uri for pair in best.pairs}
    rest = tuple(entry for entry in image_entries if entry.uri not in paired)
    notes += [best.said] * bool(best.said)
    return Pairing(best.pairs, rest, best.orphans, tuple(notes))


def pair_class_folders(
    images: Listing, masks: Listing, classes: list[str], affix: str | None = None
) -> Pairing:
    """Pair each image with its mask in the folder of each class.

    Args:
        images: Image files.
        masks: Mask files, in a folder per class.
        classes: Names of the folders; an empty list means all folders, sorted.
        affix: Same as for `pair_files`.

    Raises:
        InputError: Same as `pair_files`, or a class has no folder.
    """
    folders: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in masks.entries:
        folder, _, path = entry.path.partition("/")
        folders[folder].append(FileEntry(path, entry.uri, entry.etag, entry.size))
    names = classes or sorted(folders)
    absent = [name for name in names if name not in folders]
    if absent:
        raise InputError(
            f"--masks {masks.root.uri}: no folder for {', '.join(absent)} "
            f"(there are {', '.join(folders)})"
        )
    found = [
        pair_files(images, Listing(masks.root.join(name), tuple(folders[name]), 0), affix)
        for name in names
    ]
    mask_of = [{pair.image.uri: pair.masks[0] for pair in each.pairs} for each in found]
    pairs, rest, incomplete = list[Pair](), list[FileEntry](), list[str]()
    orphans = [
        f"{name}/{path}" for name, each in zip(names, found, strict=True) for path in each.orphans
    ]
    for image in images.entries:
        own = [of_class.get(image.uri) for of_class in mask_of]
        if all(own):
            pairs.append(Pair(image, tuple(mask for mask in own if mask)))
        elif any(own):
            missing = names[own.index(None)]
            incomplete.append(f"{image.path}: it has masks of other classes, but none in {missing}")
        else:
            rest.append(image)
    notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
    return Pairing(tuple(pairs), tuple(rest), tuple(orphans), notes, tuple(incomplete))


def class_folders(masks: Listing) -> list[str]:
    """Return the sorted names of the folders that hold the masks."""
    return sorted({entry.path.partition("/")[0] for entry in masks.entries})


@dataclass(frozen=True)
class _Step:
    """A way of pairing: an image and a mask belong together if their keys are equal."""

    said: str
    """Text for the user about how names were paired; empty for equal names."""
    image_key: Callable[[str], str | None]
    """Key of an image from its path; None: it has none."""
    mask_key: Callable[[str], str | None]
    """Key of a mask from its path; None: it has none."""

    def without_folders(self) -> _Step:
        """Return the same step for the last parts of paths."""
        said = (
            f"{self.said}, whatever their folders"
            if self.said
            else ("masks have the names of their images, in other folders")
        )
        return _Step(said, _of_base(self.image_key), _of_base(self.mask_key))


@dataclass(frozen=True)
class _Matched:
    pairs: tuple[Pair, ...]
    orphans: tuple[str, ...]
    doubts: tuple[str, ...]
    """Masks that may belong to several images, and images with several masks."""
    said: str
    """Text for the user about how names were paired."""

    @property
    def is_whole(self) -> bool:
        """True if every mask has an image of its own."""
        return not self.orphans and not self.doubts and bool(self.pairs)


def _match(step: _Step, images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> _Matched:
    image_of: dict[str, list[FileEntry]] = defaultdict(list)
    mask_of: dict[str, list[FileEntry]] = defaultdict(list)
    for of, entries, make_key in (
        (image_of, images, step.image_key),
        (mask_of, masks, step.mask_key),
    ):
        for entry in entries:
            key = make_key(entry.path)
            if key is not None:
                of[key].append(entry)
    keyed = {entry.uri for entries in mask_of.values() for entry in entries}
    pairs, orphans, doubts = [], [e.path for e in masks if e.uri not in keyed], []
    for key, entries in mask_of.items():
        partners = image_of.get(key, [])
        if not partners:
            orphans += [entry.path for entry in entries]
        elif len(partners) > 1:
            doubts.append(
                f"{partners[0].path} and {partners[1].path} have one mask, {entries[0].path}"
            )
        elif len(entries) > 1:
            doubts.append(
                f"{entries[0].path} and {entries[1].path} are masks of {partners[0].path}"
            )
        else:
            pairs.append(Pair(partners[0], (entries[0],)))
    pairs.sort(key=lambda pair: pair.image.uri)
    return _Matched(tuple(pairs), tuple(orphans), tuple(doubts), step.said)


def _choose(found: Sequence[_Matched], where: str) -> _Matched | None:
    """Return the pairs on which all steps agree; None if there is no step.

    Raises:
        InputError: They do not agree.
    """
    for other in found[1:]:
        pairs = [set(each.pairs) for each in (found[0], other)]
        if pairs[0] == pairs[1]:
            continue
        first, second = (
            min(own - rest, key=lambda pair: pair.image.uri) for own, rest in (pairs, pairs[::-1])
        )
        raise InputError(
            f"--masks {where}: names can be paired in two ways: {found[0].said} "
            f"({first.image.path} and {first.masks[0].path}), or {other.said} "
            f"({second.image.path} and {second.masks[0].path}); give --mask-affix, or rename files"
        )
    return found[0] if found else None


def _list_ways(images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> list[list[_Step]]:
    """Return the ways of pairing, the plainest first; the steps of a way are equally plain."""
    equal = _Step("", remove_suffix, remove_suffix)
    affixes = _list_affix_steps(images, masks)
    # 00.jpg.png: the mask has the whole name of its image
    names = partial(normalize, "NFC")
    whole = _Step("masks have the whole name of their images", names, _remove_last_suffix)
    ways = [[equal], [whole], affixes]
    return ways + [[step.without_folders() for step in steps] for steps in ways]


def _list_given_ways(
    images: Sequence[FileEntry], affix: str, masks: Sequence[FileEntry]
) -> list[list[_Step]]:
    """Return the ways of pairing masks whose affix is given; images may have one as well."""
    cut_masks = make_cutter(affix, masks)
    steps = [_Step("", remove_suffix, cut_masks)]
    for cut in list_common_affixes([base_name(remove_suffix(entry.path)) for entry in images])[1:]:
        said = f"images are called {cut.before}NAME{cut.after}"
        steps.append(_Step(said, partial(cut_path, cut), cut_masks))
    ways = [steps[:1], steps[1:]]
    return ways + [[step.without_folders() for step in some] for some in ways]


def _list_affix_steps(images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> list[_Step]:
    """Return steps that take an affix from all masks, from all images, or from both."""
    if not images or not masks:
        return []
    own, others = ([base_name(remove_suffix(e.path)) for e in each] for each in (masks, images))
    choices = [
        (cut_mask, cut_image)
        for cut_mask in list_common_affixes(own)
        for cut_image in list_common_affixes(others)
    ]
    steps = list[tuple[tuple[bool, int, int], _Step]]()
    known = {base_name(name) for name in others}
    for of_masks, of_images in choices:
        if not _is_plausible(of_masks, of_images):
            continue
        key = of_masks.take(own[0])
        if key is not None and f"{of_images.before}{key}{of_images.after}" in known:
            # mask_NAME says more than maskNAME, where the name would be _001
            has_edge = not (key[:1].isalnum() and key[-1:].isalnum())
            rank = (has_edge, len(of_images), len(of_masks))
            steps.append((rank, _make_affix_step(of_masks, of_images)))
    return [step for _, step in sorted(steps, key=lambda each: each[0])]


def _make_affix_step(of_masks: Affix, of_images: Affix) -> _Step:
    return _Step(
        _say(of_masks, of_images),
        partial(cut_path, of_images),
        partial(cut_path, of_masks),
    )


def _is_plausible(of_masks: Affix, of_images: Affix) -> bool:
    """Tell whether two cuts may pair names, and no smaller ones do the same."""
    if not (of_masks or of_images):
        return False
    for own, other in ((of_masks.before, of_images.before), (of_masks.after, of_images.after)):
        if own and own == other:
            return False
    # plate1_x is no mask of plate2_x, but frames may be numbered _0000 by a tool
    numbers = [
        [n for n in _NUMBER.findall(cut.before + " " + cut.after) if n != _CHANNEL]
        for cut in (of_masks, of_images)
    ]
    return numbers[0] == numbers[1] or not all(numbers)


def _say(masks: Affix, images: Affix) -> str:
    def show(cut: Affix) -> str:
        return f"{cut.before}NAME{cut.after}"

    if not images:
        return f"masks are called {show(masks).replace('NAME', 'IMAGE')}"
    if not masks:
        return f"images are called {show(images).replace('NAME', 'MASK')}"
    return f"masks are called {show(masks)}, their images {show(images)}"


def _of_base(key: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Return a function that gives the key of the last part of a path."""
    return lambda path: key(base_name(path))


def _remove_last_suffix(path: str) -> str:
    folder, slash, name = normalize("NFC", path).rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _with_affix(masks: Sequence[FileEntry], affix: str) -> tuple[list[str], tuple[FileEntry, ...]]:
    """Return a note about files without the affix, and those that have it."""
    key = make_cutter(affix, masks)
    having = tuple(entry for entry in masks if key(entry.path) is not None)
    if not having:
        raise InputError(
            f"--mask-affix {affix}: no mask has it, for instance {masks[0].path}"
            if masks
            else f"--mask-affix {affix}: there are no masks"
        )
    rest = len(masks) - len(having)
    return [f"skipped {rest} files of --masks without --mask-affix {affix}"] * (rest > 0), having
