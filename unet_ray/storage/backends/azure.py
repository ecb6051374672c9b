"""Azure behind adlfs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unet_ray.storage.backends.fsspec import FsspecBackend

if TYPE_CHECKING:
    from unet_ray.storage.backends.azure_filesystem import TieredAzureFileSystem


class AzureBackend(FsspecBackend):
    """Azure Blob Storage, which has an archive tier."""

    @property
    def filesystem(self) -> TieredAzureFileSystem:
        """The adlfs file system; fsspec keeps one per process and set of options."""
        from unet_ray.storage.backends.azure_filesystem import TieredAzureFileSystem

        return TieredAzureFileSystem(use_listings_cache=False, **self._options)
