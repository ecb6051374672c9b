"""Images that a label file lists more than once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from unet_ray.labelled_data.annotations import LabelError
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder


@dataclass(frozen=True)
class _Entry:
    """An image at the place that lists its labels, or else at its first place."""

    row: int
    """Its row in the builder."""
    where: str
    """Its place in the file, for messages."""
    labels: int | None
    """Hash of its labels; None if it has none."""


class KnownImages:
    """Distinguishes images that are listed again from new ones.

    Args:
        builder: Builder that holds the rows of the images, and receives counts.
    """

    def __init__(self, builder: AnnotationsBuilder) -> None:
        self._builder = builder
        self._entries: dict[Hashable, _Entry] = {}

    def find_row(
        self, key: Hashable, *, name: str, where: str, labels: int | None
    ) -> tuple[int, bool]:
        """Return the row of an image in the builder, and whether its labels must be added.

        Args:
            key: Key that distinguishes images: name, folder, size.
            name: Name of the image, for messages.
            where: Its place in the file, for messages.
            labels: Hash of its labels; None if it has none.

        Raises:
            LabelError: The image was listed before, with other labels.
        """
        before = self._entries.get(key)
        if before is None:
            row = self._builder.reserve_image()
            self._entries[key] = _Entry(row, where, labels)
            return row, True
        if labels is not None and before.labels not in (None, labels):
            raise LabelError(
                f"{where}: {name} has other labels in {before.where}; they may be two images of "
                "one name, or one image that was labelled twice: remove one of them, or give the "
                "images' folders in their names"
            )
        self._builder.left_out["images that are listed twice, with the same labels or none"] += 1
        if labels is None or before.labels is not None:
            return before.row, False
        self._entries[key] = _Entry(before.row, where, labels)
        return before.row, True
