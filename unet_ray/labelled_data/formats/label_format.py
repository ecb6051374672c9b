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
    """Name of the format in messages: `COCO instances JSON`."""
    suffixes: tuple[str, ...]
    """Suffixes of its files, lower case, with the dot."""
    recognises: Callable[[bytes], bool]
    """Tells from the beginning of a file, at most a MiB, whether it has this format."""
    parse: Callable[[BufferedReader, str, AnnotationsBuilder], None]
    """Parses a file. The arguments are its content, its path (for names derived from it), and the
    builder of its annotations. Raises LabelError, whose text names the place in the file and the
    remedy. A fault of a single image or object becomes the `error` of that image or object."""
    prepare: Callable[[], object] = object
    """Loads in advance whatever its libraries load on first use, because the child process that
    parses cannot open files later."""
    is_per_image: bool = False
    """True if each file describes one image, so that a folder of them is a set."""
