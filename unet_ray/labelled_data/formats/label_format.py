"""Description of a label format: its name, its suffixes, its parser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader

from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder


@dataclass(frozen=True)
class LabelFormat:
    """A format of label files."""

    name: str
    """Its name in messages: `COCO instances JSON`."""
    suffixes: tuple[str, ...]
    """Suffixes of its files, lower case, with the dot."""
    recognises: Callable[[bytes], bool]
    """Tells from the beginning of a file, up to a MiB of it, whether it has this form."""
    parse: Callable[[BufferedReader, str, AnnotationsBuilder], None]
    """Parses a file: content, path (for names that come from it), and where its images, objects,
    categories and counts go. Raises LabelError, whose text names the place in the file and the
    remedy. Costs one image where that is enough (`error` of images and objects)."""
    prepare: Callable[[], object] = object
    """Loads what its libraries load when they are first used: the child process that parses can
    open no file."""
    is_per_image: bool = False
    """True if each file describes one image, so that a folder of them is a set."""
