"""Folders to search for files that describe a labelled set, such as names of classes."""

from __future__ import annotations

from collections.abc import Iterator

from unet_ray.storage.storage import Storage


def list_folders(folder: Storage, num_above: int) -> Iterator[Storage]:
    """Yield a folder and those above it, the nearest first.

    If the storage of the folder follows no links that lead out of it, neither do those of folders
    above: the content of a file that is found there ends up in messages and in the model.

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
