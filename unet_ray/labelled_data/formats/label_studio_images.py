"""Images that a task of Label Studio shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import LabelError
from unet_ray.text import is_utf8

_FILE_OF_IMAGE = re.compile(
    r"\.(png|jpe?g|jfif|tiff?|bmp|gif|webp|avif|jp2|j2k|p[gpbn]m|heic)($|[?#&])", re.IGNORECASE
)
"""Ends of the names and addresses of images."""
_USUAL_KEYS = ("image", "img", "image_url", "url", "photo", "picture", "$undefined$")
"""Keys of images whose addresses do not end as those of files do."""
_MAIN_KEY = "image"
_HINTS = ("name", "path", "file")
"""Parts of keys that say what an image is called, beside the key of the image itself."""
_OTHER_FILES = ("mask", "seg", "label", "annot", "pred", "thumb", "preview")
"""Parts of keys that name other files than the image."""
_OTHER_PLACES = ("file_upload", "storage_filename")
"""Keys of a task that name its file."""


@dataclass(frozen=True)
class TaskImage:
    """An image of a task."""

    key: str
    """Its key in the data of the task."""
    index: int
    """Its place in a list of images; 0 where it is the only one."""
    name: str
    places: tuple[str, ...] = ()
    """Other texts that may tell which image it is."""


def find_task_images(
    where: str, task: Mapping[str, Any], targets: Collection[str]
) -> list[TaskImage]:
    """Return the images that a task shows; none if it names none.

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
    if len(chosen) > 1 or len(images[chosen[0]]) > 1:
        return [
            TaskImage(key, index, name) for key in chosen for index, name in enumerate(images[key])
        ]
    key = chosen[0]
    hints = (images[other][0] for other in images if other != key and _is_hint(other))
    return [TaskImage(key, 0, images[key][0], (*places, *hints))]


def list_named_images(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the data of a task that look like names of images, by their keys."""
    texts = {key: found for key, value in data.items() if (found := _list_texts(value))}
    files = {key: each for key, each in texts.items() if all(map(_FILE_OF_IMAGE.search, each))}
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
        first, second = (f"{key} ({shorten(images[key][0])})" for key in candidates[:2])
        raise LabelError(
            f"{where}: its regions may be drawn on {first} or on {second}; give the image the key "
            f"{_MAIN_KEY} in the data of the tasks, or take the other one out"
        )
    return candidates


def _list_texts(value: Any) -> list[str]:
    """Return a text, or a list of them, as a list; empty for all else and for images themselves."""
    texts = value if isinstance(value, list) else [value]
    is_named = all(_is_text(text) and not text.startswith("data:") for text in texts)
    return texts if is_named else []


def _is_hint(key: str) -> bool:
    words = key.lower()
    return any(hint in words for hint in _HINTS) and not any(i in words for i in _OTHER_FILES)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and is_utf8(value)
