"""Folders in which files that describe a labelled set are looked for, such as names of classes."""

from __future__ import annotations

from collections.abc import Iterator

from unet_ray.storage.storage import Storage


def list_folders(folder: Storage, num_above: int) -> Iterator[Storage]:
    """Yield a folder and those above it, the nearest first.

    Where links that lead out of the folder are not followed, none is followed that leads out of one
    of these: what such a file says ends up in messages and in the model.

    Args:
        folder: Folder of the labels.
        num_above: Number of folders above it.
    """
    scheme, _, path = folder.uri.rpartition("://")
    for _ in range(1 + num_above):
        if not path:
            return
        place = Storage(f"{scheme}://{path}" if scheme else path, folder.options)
        yield place if folder.within is None else place.confine([place.uri])
        path = path.rpartition("/")[0]
