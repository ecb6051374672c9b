"""Images that a task of Label Studio shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from reprlib import repr as shorten
from typing import Any, TypeGuard

from unet_ray.labelled_data.annotations import LabelError
from unet_ray.text import is_utf8

_FILE_OF_IMAGE = re.compile(
    r"\.(png|jpe?g|jfif|tiff?|bmp|gif|webp|avif|jp2|j2k|p[gpbn]m|heic)($|[?#&])", re.IGNORECASE
)
"""Suffixes of the names and addresses of images."""
_USUAL_KEYS = ("image", "img", "image_url", "url", "photo", "picture", "$undefined$")
"""Keys that may hold an image even if its address has no suffix of a file."""
_MAIN_KEY = "image"
_HINTS = ("name", "path", "file")
"""Parts of keys, besides the key of the image itself, whose values name the image."""
_OTHER_FILES = ("mask", "seg", "label", "annot", "pred", "thumb", "preview")
"""Parts of keys that name files other than the image."""
_OTHER_PLACES = ("file_upload", "storage_filename")
"""Keys of a task that name its file."""


@dataclass(frozen=True)
class TaskImage:
    """An image of a task."""

    key: str
    """Its key in the data of the task."""
    index: int
    """Its index in a list of images; 0 if it is the only one."""
    name: str
    places: tuple[str, ...] = ()
    """Other texts that may identify it."""


def find_task_images(
    where: str, task: Mapping[str, Any], targets: Collection[str]
) -> list[TaskImage]:
    """Return the images that a task shows; an empty list if it names none.

    Args:
        where: Place of the task, for messages.
        task: The task.
        targets: Names of the tags that regions were drawn on; often the keys of their images.

    Raises:
        LabelError: It is not clear which image the regions were drawn on.
    """
    places = tuple(task[key] for key in _OTHER_PLACES if _is_text(task.get(key)))
    images = list_named_images(task["data"])
    if not images:
        return [TaskImage("", 0, places[0], places[1:])] if places else []
    chosen = _choose_keys(where, images, targets)
    found = [
        TaskImage(key, index, name) for key in chosen for index, name in enumerate(images[key])
    ]
    if len(found) > 1:
        return found
    others = [key for key in images if key != chosen[0]]
    hints = [images[key][0] for key in others if _is_hint(key)]
    return [replace(found[0], places=(*places, *hints))]


def list_named_images(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the values of a task's data that look like names of images, by key."""
    texts, files = {}, {}
    for key, value in data.items():
        found = _list_texts(value)
        if found:
            texts[key] = found
            if all(_FILE_OF_IMAGE.search(text) for text in found):
                files[key] = found
    return files or {key: texts[key] for key in _USUAL_KEYS if key in texts}


def _choose_keys(
    where: str, images: Mapping[str, Sequence[str]], targets: Collection[str]
) -> list[str]:
    """Return the keys of the images on which regions were drawn."""
    drawn_on = [key for key in images if key in targets]
    if drawn_on:
        return drawn_on
    if _MAIN_KEY in images:
        return [_MAIN_KEY]
    candidates = [key for key in images if not _is_hint(key)] or [*images][:1]
    if len(candidates) > 1:
        first, second = candidates[:2]
        raise LabelError(
            f"{where}: its regions may be drawn on {first} ({shorten(images[first][0])}) or on "
            f"{second} ({shorten(images[second][0])}); give the image the key {_MAIN_KEY} in the "
            "data of the tasks, or remove the other one"
        )
    return candidates


def _list_texts(value: object) -> list[str]:
    """Return a text, or a list of texts, as a list.

    The list is empty for other values, and for `data:` addresses, which embed an image.
    """
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if _is_text(text) and not text.startswith("data:")]
    return texts if len(texts) == len(values) else []


def _is_hint(key: str) -> bool:
    """Tell whether a key of a task's data may name its image."""
    words = key.lower()
    is_of_other_file = any(part in words for part in _OTHER_FILES)
    return not is_of_other_file and any(hint in words for hint in _HINTS)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and is_utf8(value)
