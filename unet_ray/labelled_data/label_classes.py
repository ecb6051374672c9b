"""Categories of label files, and the classes made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, check_class_names
from unet_ray.labelled_data.annotations import Annotations, Category
from unet_ray.labelled_data.drawing import Drawing
from unet_ray.labelled_data.folders_above import list_folders
from unet_ray.labelled_data.formats.yolo import CLASS_FILES
from unet_ray.labelled_data.label_files import read_label_file
from unet_ray.storage.storage import Storage

_FOLDERS_ABOVE = 2
"""Number of folders above the labels in which a file of class names is looked for, as for
`labels/train` and `data.yaml`."""


def are_numbered(annotations: Annotations) -> bool:
    """Tell whether categories have numbers instead of names, as in YOLO files."""
    categories = annotations.categories
    have_numbers = all(each.name == str(each.id) for each in categories)
    return bool(categories) and have_numbers


def find_class_names(labels: Storage, named: str) -> tuple[dict[int, str], str | None]:
    """Read the names of numbered categories from a file in the folder of the labels, or above it.

    Args:
        labels: Folder of the label files.
        named: Flag and URI, for messages.

    Returns:
        Number → name, and the URI of the file; an empty dictionary and None if there is no file.

    Raises:
        InputError: The file cannot be used.
    """
    for folder in list_folders(labels, _FOLDERS_ABOVE):
        for name in CLASS_FILES:
            file = folder.join(name)
            try:
                if not file.exists():
                    continue
            except OSError as error:
                raise InputError(f"{named}: {file.uri}: cannot be accessed: {error}") from None
            found = read_label_file(file, {}, f"{named}: {file.uri}").annotations
            names = {each.id: each.name for each in found.categories if each.id is not None}
            return names, file.uri
    return {}, None


def name_categories(
    annotations: Annotations,
    names: Mapping[int, str],
    classes: tuple[ClassSpec, ...],
    named: str,
) -> Annotations:
    """Return annotations whose numbered categories have names.

    Args:
        annotations: Annotations with numbers for names.
        names: Number → name, from a file; may be empty.
        classes: Classes that the user named. If there is no file, numbers are their ids, or else
            their places from 0.
        named: Flag and URI, for messages.

    Raises:
        InputError: A number has no name, or may have two.
    """
    numbers = sorted(each.id for each in annotations.categories if each.id is not None)
    flag = ",".join(f"NAME={number}" for number in numbers)
    if not names and not classes:
        raise InputError(
            f"{named}: its classes are numbers ({', '.join(map(str, numbers))}), and there is no "
            f"data.yaml or classes.txt with their names; give --classes {flag}"
        )
    if not names:
        by_id = {spec.id: spec.name for spec in classes}
        by_order = {place: spec.name for place, spec in enumerate(classes)}
        ways = [by_id] if all(spec.is_numbered for spec in classes) else [by_id, by_order]
        fitting = [each for each in ways if set(numbers) <= set(each)]
        differ = any(by_id.get(number) != by_order.get(number) for number in numbers)
        if len(fitting) == 2 and differ:
            raise InputError(
                f"{named}: class {numbers[0]} may be {by_id[numbers[0]]} (numbered from 1) or "
                f"{by_order[numbers[0]]} (numbered from 0); number them: --classes {flag}"
            )
        names = fitting[0] if fitting else by_id
    missing = [number for number in numbers if number not in names]
    if missing:
        known = [f"{name}={number}" for number, name in names.items()]
        there = ", ".join(known)
        raise InputError(f"{named}: class {missing[0]} has no name; the named classes are {there}")
    renamed = []
    for each in annotations.categories:
        if each.id is not None:
            renamed.append(Category(names[each.id], each.id))
    return replace(annotations, categories=tuple(renamed))


def choose_classes(
    annotations: Annotations, classes: tuple[ClassSpec, ...], area: str | None, named: str
) -> Drawing:
    """Return a drawing of the classes that the user named, or of all.

    Args:
        annotations: Annotations of the label files.
        classes: Classes that the user named; if empty, all categories are taken.
        area: Category of the labelled area, if given; pixels outside its objects are not counted.
        named: Flag and URI, for messages.

    Raises:
        InputError: A class is missing, or has no name that can be shown.
    """
    names = [category.name for category in annotations.categories]
    check_class_names(names, named)
    wanted = [spec.name for spec in classes]
    if area:
        wanted.append(area)
    for name in wanted:
        if name not in names:
            there = ", ".join(dict.fromkeys(names))
            raise InputError(f"{named}: it has no category {name}; there are {there}")
    classes = classes or _list_classes(annotations, area)
    if not classes:
        raise InputError(f"{named}: it has no category of objects")
    places = {spec.name: place for place, spec in enumerate(classes)}
    place_of = {row: places[name] for row, name in enumerate(names) if name in places}
    rows = frozenset(row for row, name in enumerate(names) if name == area)
    return Drawing(annotations, classes, place_of, rows)


def _list_classes(annotations: Annotations, area: str | None) -> tuple[ClassSpec, ...]:
    """Return a class for each name of a category, in the order of their ids.

    Some tools write several categories with one name; the class gets the largest of their ids. If
    any category has no id, classes are numbered from 1.
    """
    chosen = [each for each in annotations.categories if each.name != area]
    chosen.sort(key=lambda each: each.id or 0)
    ids = {each.name: each.id for each in chosen}
    if any(number is None for number in ids.values()):
        ids = {name: number for number, name in enumerate(ids, 1)}
    return tuple(ClassSpec(number or 0, name) for name, number in ids.items())
