"""Objects that S3 keeps in an archive: they are listed, but cannot be read until restored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects must be restored first. GLACIER_IR is read at once."""
_RESTORES = {"OptionalObjectAttributes": ["RestoreStatus"]}
_AWS = (".amazonaws.com", ".amazonaws.com.cn")


class ArchiveListing:
    """Pages of a listing, and which of their objects are archived.

    A restored copy keeps its storage class, and a listing tells of it only when it is asked to.
    That is done from the first page on that has an archived object.

    Args:
        filesystem: The s3fs file system.
        retry: Repeats one request where its error may pass.
    """

    def __init__(self, filesystem: Any, retry: Callable[[Callable[[], Any]], Any]) -> None:
        self._filesystem, self._retry = filesystem, retry
        self._asked: dict[str, Any] = {}
        self._is_refused = False

    def fetch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return a page of a listing.

        Args:
            wanted: Arguments of the request.
        """
        page = self._fetch(wanted | self._asked)
        if self._asked or self._is_refused or not any(map(_is_of_archive, page["Contents"])):
            return page
        try:
            page = self._fetch(wanted | _RESTORES)
        except OSError:  # of a store that does not know the attribute
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
            None where the listing does not tell: only that of AWS is known to name every copy.
        """
        if not _is_of_archive(found):
            return False
        status = found.get("RestoreStatus")
        if status:
            return bool(status.get("IsRestoreInProgress"))
        return True if self._asked and self._is_aws() else None

    def _is_aws(self) -> bool:
        host = urlsplit(str(self._filesystem.s3.meta.endpoint_url)).hostname or ""
        return host.endswith(_AWS)


def _is_of_archive(found: dict[str, Any]) -> bool:
    return found.get("StorageClass") in ARCHIVE_CLASSES


def is_restored(head: dict[str, Any]) -> bool:
    """Tell from the answer to HEAD whether an archived object has a copy that can be read."""
    return 'ongoing-request="false"' in str(head.get("Restore"))
