"""Objects that S3 keeps in an archive: they are listed, but cannot be read until restored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from unet_ray.storage.backends.base import Retry

if TYPE_CHECKING:
    from unet_ray.storage.backends.s3_filesystem import PlainS3FileSystem

ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects must be restored first. GLACIER_IR is read at once."""
_RESTORES = {"OptionalObjectAttributes": ["RestoreStatus"]}
_AWS = (".amazonaws.com", ".amazonaws.com.cn")


class ArchiveListing:
    """Pages of a listing, and which of their objects are archived.

    A restored copy keeps its storage class, and a listing reports it only on request. The request
    is made from the first page that has an archived object.

    Args:
        filesystem: The s3fs file system.
        retry: Runs one request, again after an error that may pass.
    """

    def __init__(self, filesystem: PlainS3FileSystem, retry: Retry) -> None:
        self._filesystem = filesystem
        self._retry = retry
        self._asked: dict[str, Any] = {}
        self._is_refused = False

    def fetch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return a page of a listing.

        Args:
            wanted: Arguments of the request.
        """
        page = self._fetch(wanted | self._asked)
        if self._asked or self._is_refused:
            return page
        if not any(map(_is_of_archive, page["Contents"])):
            return page
        try:
            page = self._fetch(wanted | _RESTORES)
        except OSError:  # the store does not know the attribute
            self._is_refused = True
        else:
            self._asked = _RESTORES
        return page

    def _fetch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        page = self._retry(partial(self._filesystem.call_s3, "list_objects_v2", **wanted))
        return {"Contents": [], **page}

    def is_archived(self, found: dict[str, Any]) -> bool | None:
        """Tell whether an object must be restored before it can be read.

        Args:
            found: The object, as the listing has it.

        Returns:
            None if the listing does not show it; only AWS is known to list every restored copy.
        """
        if not _is_of_archive(found):
            return False
        status = found.get("RestoreStatus")
        if status:
            return bool(status.get("IsRestoreInProgress"))
        if not self._asked:
            return None
        host = urlsplit(str(self._filesystem.s3.meta.endpoint_url)).hostname or ""
        return True if host.endswith(_AWS) else None


def _is_of_archive(found: dict[str, Any]) -> bool:
    return found.get("StorageClass") in ARCHIVE_CLASSES


def is_restored(head: dict[str, Any]) -> bool:
    """Tell from the answer to HEAD whether an archived object has a copy that can be read."""
    return 'ongoing-request="false"' in str(head.get("Restore"))
