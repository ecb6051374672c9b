"""Pairing of image files and mask files by their names.

The names of a pair are equal except for their suffixes, or for one affix that is the same in the
whole set (`001.jpg` and `001_mask.png`). Any other way of pairing than equality must give every
mask its own image, and a note names it. Names that are merely similar are never paired.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
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
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing

_NUMBER = re.compile("[0-9]+")
_CHANNEL = "0000"
"""Channel number that some tools add to the names of images; it does not identify the image."""
_CLASSES_AND_OBJECTS = frozenset({"SegmentationClass", "SegmentationObject"})
"""Folders of a Pascal VOC export, which hold the same objects twice."""


@dataclass(frozen=True)
class Pair:
    """One image file and its mask files."""

    image: FileEntry
    masks: tuple[FileEntry, ...]
    """Masks of the image: one, or one per class if masks lie in a folder per class."""


@dataclass(frozen=True)
class Pairing:
    """Pairs of a set, and the files that have no partner."""

    pairs: tuple[Pair, ...]
    unlabelled: tuple[FileEntry, ...] = ()
    """Images without a mask, which are left out."""
    orphans: tuple[str, ...] = ()
    """Paths of masks without an image; each counts as an image that cannot be used."""
    notes: tuple[str, ...] = ()
    """Messages about how the names were paired, if they are not equal."""
    incomplete: tuple[str, ...] = ()
    """Messages about images with masks of some classes only, which cannot be used."""


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
    if stems & mask_stems:
        return False
    paths = [stem.partition("/")[2] for stem in mask_stems]
    return all(path in stems for path in paths)


def pair_files(images: Listing, masks: Listing, affix: str | None = None) -> Pairing:
    """Pair each mask with the image of its name.

    Args:
        images: Image files.
        masks: Mask files; they may lie among the images.
        affix: Text that mask names add to the names of their images: a suffix such as `_mask`, a
            prefix such as `mask_`, or a pattern with `*` for the name of the image. None: inferred.

    Raises:
        InputError: The names do not show which mask belongs to which image.
    """
    image_entries, mask_entries, notes = part_one_folder(images, masks, affix)
    if affix:
        named, mask_entries = _with_affix(mask_entries, affix)
        notes += named
        ways = _list_given_ways(image_entries, affix, mask_entries)
    else:
        ways = _list_ways(image_entries, mask_entries)
    for steps in [*ways]:
        ways.append([step.without_folders() for step in steps])
    best = _match(ways[0][0], image_entries, mask_entries)
    for steps in ways[1:]:
        if best.is_whole:
            break
        found = [_match(step, image_entries, mask_entries) for step in steps]
        whole = _choose([each for each in found if each.is_whole], masks.root.uri)
        if affix:  # a given affix need not pair all masks
            best = max([best, *found], key=lambda each: len(each.pairs))
        best = whole or best
    if best.doubts:
        raise InputError(f"{best.doubts[0]}; keep one, or select files by a glob")
    if not best.pairs:
        first_mask = mask_entries[0].path if mask_entries else "no mask"
        raise InputError(
            f"no mask in {masks.root.uri} has the name of an image in {images.root.uri}: "
            f"{first_mask}, {image_entries[0].path}; give --mask-affix with the text that mask "
            "names add to those of their images (_mask, mask_, a pattern such as mask_*_v2, or * "
            "for equal names in other folders), or globs for --images and --masks"
        )
    paired = {pair.image.uri for pair in best.pairs}
    unlabelled = tuple(entry for entry in image_entries if entry.uri not in paired)
    if best.said:
        notes.append(best.said)
    return Pairing(best.pairs, unlabelled, best.orphans, tuple(notes))


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
    mask_of = list[dict[str, FileEntry]]()
    orphans = list[str]()
    notes: dict[str, None] = {}
    for name in names:
        listing = Listing(masks.root.join(name), tuple(folders[name]), 0)
        of_class = pair_files(images, listing, affix)
        mask_of.append({pair.image.uri: pair.masks[0] for pair in of_class.pairs})
        orphans += [f"{name}/{path}" for path in of_class.orphans]
        notes |= dict.fromkeys(of_class.notes)
    pairs, unlabelled, incomplete = list[Pair](), list[FileEntry](), list[str]()
    for image in images.entries:
        own = [masks_of_class.get(image.uri) for masks_of_class in mask_of]
        if all(own):
            pairs.append(Pair(image, tuple(mask for mask in own if mask)))
        elif any(own):
            missing = names[own.index(None)]
            incomplete.append(f"{image.path}: it has masks of other classes, but none in {missing}")
        else:
            unlabelled.append(image)
    return Pairing(
        pairs=tuple(pairs),
        unlabelled=tuple(unlabelled),
        orphans=tuple(orphans),
        notes=tuple(notes),
        incomplete=tuple(incomplete),
    )


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
        said = "masks have the names of their images, in other folders"
        if self.said:
            said = f"{self.said}, whatever their folders"
        return _Step(said, _of_base(self.image_key), _of_base(self.mask_key))


@dataclass(frozen=True)
class _Matched:
    """Result of a step for a set."""

    pairs: tuple[Pair, ...]
    orphans: tuple[str, ...]
    """Paths of masks without an image."""
    doubts: tuple[str, ...]
    """Masks that may belong to several images, and images with several masks."""
    said: str
    """Text for the user about how names were paired."""

    @property
    def is_whole(self) -> bool:
        """True if every mask has an image of its own."""
        return not self.orphans and not self.doubts and bool(self.pairs)


def _match(step: _Step, images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> _Matched:
    """Pair the files whose keys are equal."""
    images_of = _group_by_key(images, step.image_key)
    masks_of = _group_by_key(masks, step.mask_key)
    pairs = []
    orphans = [entry.path for entry in masks_of.pop(None, [])]
    doubts = []
    for key, found in masks_of.items():
        partners = images_of.get(key, [])
        if not partners:
            orphans += [entry.path for entry in found]
        elif len(partners) > 1:
            doubts.append(
                f"{partners[0].path} and {partners[1].path} share the mask {found[0].path}"
            )
        elif len(found) > 1:
            first, second = found[:2]
            doubts.append(f"{first.path} and {second.path} are masks of {partners[0].path}")
        else:
            pairs.append(Pair(partners[0], (found[0],)))
    pairs.sort(key=lambda pair: pair.image.uri)
    return _Matched(tuple(pairs), tuple(orphans), tuple(doubts), step.said)


def _group_by_key(
    entries: Sequence[FileEntry], make_key: Callable[[str], str | None]
) -> dict[str | None, list[FileEntry]]:
    """Return the files of each key, in the order of the files."""
    groups: dict[str | None, list[FileEntry]] = defaultdict(list)
    for entry in entries:
        groups[make_key(entry.path)].append(entry)
    return groups


def _choose(found: Sequence[_Matched], where: str) -> _Matched | None:
    """Return the pairs on which all steps agree; None if there is no step.

    Raises:
        InputError: The steps do not agree.
    """
    if not found:
        return None
    one = found[0]
    for other in found[1:]:
        one_pairs, other_pairs = set(one.pairs), set(other.pairs)
        if one_pairs == other_pairs:
            continue
        first = min(one_pairs - other_pairs, key=lambda pair: pair.image.uri)
        second = min(other_pairs - one_pairs, key=lambda pair: pair.image.uri)
        raise InputError(
            f"--masks {where}: names can be paired in two ways: {one.said} "
            f"({first.image.path} and {first.masks[0].path}), or {other.said} "
            f"({second.image.path} and {second.masks[0].path}); give --mask-affix, or rename files"
        )
    return one


def _list_ways(images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> list[list[_Step]]:
    """Return the ways of pairing, the simplest first; the steps of a way are equally simple."""
    equal = _Step("", remove_suffix, remove_suffix)
    affixes = _list_affix_steps(images, masks)
    # 00.jpg.png: the mask has the whole name of its image
    whole = _Step(
        said="masks have the whole name of their images",
        image_key=partial(normalize, "NFC"),
        mask_key=_remove_last_suffix,
    )
    return [[equal], [whole], affixes]


def _list_given_ways(
    images: Sequence[FileEntry], affix: str, masks: Sequence[FileEntry]
) -> list[list[_Step]]:
    """Return the ways of pairing masks whose affix is given; images may have one as well."""
    cut_masks = make_cutter(affix, masks)
    plain = [_Step("", remove_suffix, cut_masks)]
    image_names = [base_name(remove_suffix(entry.path)) for entry in images]
    cut_images = [
        _Step(f"images are called {_show(cut, 'NAME')}", partial(cut_path, cut), cut_masks)
        for cut in list_common_affixes(image_names)[1:]
    ]
    return [plain, cut_images]


def _list_affix_steps(images: Sequence[FileEntry], masks: Sequence[FileEntry]) -> list[_Step]:
    """Return steps that remove an affix from all masks, from all images, or from both."""
    if not images or not masks:
        return []
    mask_names = [base_name(remove_suffix(entry.path)) for entry in masks]
    image_names = [base_name(remove_suffix(entry.path)) for entry in images]
    known = set(image_names)
    steps = list[tuple[tuple[bool, int, int], _Step]]()
    for of_masks, of_images in product(
        list_common_affixes(mask_names), list_common_affixes(image_names)
    ):
        if not _is_plausible(of_masks, of_images):
            continue
        key = of_masks.take(mask_names[0])
        if key is not None and f"{of_images.before}{key}{of_images.after}" in known:
            # mask_NAME has priority over maskNAME, which would leave the name _001
            has_edge = not (key[:1].isalnum() and key[-1:].isalnum())
            rank = (has_edge, len(of_images), len(of_masks))
            step = _Step(
                said=_say(of_masks, of_images),
                image_key=partial(cut_path, of_images),
                mask_key=partial(cut_path, of_masks),
            )
            steps.append((rank, step))
    steps.sort(key=lambda each: each[0])
    return [step for _, step in steps]


def _is_plausible(of_masks: Affix, of_images: Affix) -> bool:
    """Tell whether two affixes may pair names, and no shorter affixes do the same."""
    if not (of_masks or of_images):
        return False
    if of_masks.before and of_masks.before == of_images.before:
        return False
    if of_masks.after and of_masks.after == of_images.after:
        return False
    # plate1_x is not the mask of plate2_x, but a tool may have numbered frames _0000
    mask_numbers = _list_numbers(of_masks)
    image_numbers = _list_numbers(of_images)
    return mask_numbers == image_numbers or not (mask_numbers and image_numbers)


def _list_numbers(cut: Affix) -> list[str]:
    numbers = _NUMBER.findall(f"{cut.before} {cut.after}")
    return [number for number in numbers if number != _CHANNEL]


def _say(masks: Affix, images: Affix) -> str:
    if not images:
        return f"masks are called {_show(masks, 'IMAGE')}"
    if not masks:
        return f"images are called {_show(images, 'MASK')}"
    return f"masks are called {_show(masks, 'NAME')}, their images {_show(images, 'NAME')}"


def _show(cut: Affix, name: str) -> str:
    return f"{cut.before}{name}{cut.after}"


def _of_base(key: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Return a function that gives the key of the last part of a path."""
    return lambda path: key(base_name(path))


def _remove_last_suffix(path: str) -> str:
    folder, slash, name = normalize("NFC", path).rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _with_affix(masks: Sequence[FileEntry], affix: str) -> tuple[list[str], tuple[FileEntry, ...]]:
    """Return a note about masks without the affix, if there are any, and the masks that have it.

    Raises:
        InputError: No mask has the affix.
    """
    if not masks:
        raise InputError(f"--mask-affix {affix}: there are no masks")
    key = make_cutter(affix, masks)
    having = tuple(entry for entry in masks if key(entry.path) is not None)
    if not having:
        raise InputError(f"--mask-affix {affix}: no mask has it, for instance {masks[0].path}")
    num_without = len(masks) - len(having)
    notes = []
    if num_without:
        notes.append(f"skipped {num_without} files of --masks without --mask-affix {affix}")
    return notes, having
