"""A file that a command writes, checked before the work starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.store_options import StoreOptions


@dataclass(frozen=True)
class OutputFile:
    """One file that a command writes."""

    flag: str
    """Flag that names the file, for messages."""
    uri: str
    folder: Storage
    name: str

    @staticmethod
    def of(flag: str, uri: str, options: StoreOptions | None = None) -> OutputFile:
        """Return the file at a URI.

        Args:
            flag: Flag that names the file.
            uri: URI of the file.
            options: Options of its store; None: no options.

        Raises:
            InputError: The URI names a folder, or its folder cannot be written to.
        """
        folder, slash, name = uri.rpartition("/")
        place = Storage.of(folder or slash or ".", options)
        if not name or (place.is_local and Path(place.path, name).is_dir()):
            raise InputError(f"{flag} {uri}: this is a folder; name a file")
        place.check_writable()
        return OutputFile(flag, uri, place, name)

    def write(self, data: bytes | Path) -> None:
        """Write bytes, or those of a local file; raise InputError if that fails."""
        try:
            if isinstance(data, Path):
                self.folder.put(self.name, data)
            else:
                self.folder.write(self.name, data)
        except OSError as error:
            raise InputError(f"{self.flag} {self.uri}: cannot be written: {error}") from None
