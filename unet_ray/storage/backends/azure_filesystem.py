"""Azure behind adlfs, whose listings leave out the tier of a blob.

adlfs is an extra, so this module is imported only when a container is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adlfs import AzureBlobFileSystem


class TieredAzureFileSystem(AzureBlobFileSystem):
    """An Azure file system that tells the access tier of each blob, as `blob_tier`."""

    async def _details(
        self, contents: Iterable[Any], *args: object, **kwargs: object
    ) -> list[dict[str, Any]]:
        """Return what adlfs tells of blobs and folders, with their tiers."""
        found = list(contents)
        tiers = {
            f"{blob['container']}/{blob['name']}".rstrip("/"): blob.get("blob_tier")
            for blob in found
            if blob.has_key("container")
        }
        details: list[dict[str, Any]] = await super()._details(found, *args, **kwargs)
        for each in details:
            each["blob_tier"] = tiers.get(each["name"].rstrip("/"))
        return details
