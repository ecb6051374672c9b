"""Roots: the folders below which URIs from a manifest, tables or other data must lie.

The author of a manifest or a table must not choose what a reader opens with its credentials.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.flags import parse_uris
from unet_ray.storage.storage import Storage, is_allowed
from unet_ray.storage.uris import is_below, redact, uri_scheme, uri_store
from unet_ray.store_options import StoreOptions, keep_for

FLAG = "--image-roots"
_REMOTE = r"^[^/]*://"
"""Regular expression for URIs that are not paths."""
_STEPS_UP = r"/\.\.(/|$)"
"""Regular expression for a `..` in a name, which only some stores treat as the parent folder."""
_SHOWN = 8
"""Largest number of roots that a message names."""
_SUGGESTED = 8
"""Largest number of roots that a message suggests."""
_FOLDERS = 2**16
"""Largest number of folders whose real paths are remembered while URIs are compared."""


@dataclass(frozen=True)
class Roots:
    """Folders below which URIs may lie.

    Paths are compared after links are resolved: a path below a root lies outside if a link in it
    leads elsewhere. A remote URI with `..` in it lies outside of every root.
    """

    uris: tuple[str, ...] | None = None
    """URIs of the folders; None: none are given, and `or_default` fills them in."""
    follow_links: bool = False
    """True if links may lead out of a folder: then paths are compared as they are written."""
    options: StoreOptions = StoreOptions()  # noqa: RUF009 (it is frozen)
    """Options of the store that holds the files."""

    @staticmethod
    def parse(
        text: str | None,
        follow_links: bool = False,
        options: StoreOptions = StoreOptions(),  # noqa: B008 (it is frozen)
    ) -> Roots:
        """Return the roots that a flag names; raise InputError for an invalid URI."""
        if text is None:
            return Roots(None, follow_links, options)
        uris = tuple(Storage.of(uri).uri for uri in parse_uris(text, FLAG))
        return Roots(uris, follow_links, options)

    def or_default(self, *uris: str) -> Roots:
        """Return these roots or, if none are given, the given URIs as roots."""
        return self if self.uris is not None else replace(self, uris=uris)

    def find_outside(self, uris: pa.Array) -> pa.Array:
        """Return a mask of the URIs that do not lie below any root.

        Args:
            uris: Normalised URIs; strings.
        """
        below = pa.array([False] * len(uris), pa.bool_())
        folders = []
        for root in self.uris or ():
            if uri_scheme(root) == "file":
                folders.append(root)
            else:
                is_here = pc.or_(pc.equal(uris, root), pc.starts_with(uris, f"{root}/"))
                below = pc.or_(below, is_here)
        outside = pc.or_(pc.invert(below), pc.match_substring_regex(uris, _STEPS_UP))
        is_path = pc.invert(pc.match_substring_regex(uris, _REMOTE))
        if not pc.any(is_path).as_py():
            return outside
        find_real = lru_cache(_FOLDERS)(os.path.realpath)
        if not self.follow_links:
            folders = [find_real(folder) for folder in folders]
        are_outside = []
        for path in uris.filter(is_path).to_pylist():
            is_inside = False
            if path.startswith("/"):
                real = self._resolve(path, find_real)
                is_inside = any(is_below(real, folder) for folder in folders)
            are_outside.append(not is_inside)
        return pc.replace_with_mask(outside, is_path, pa.array(are_outside))

    def hold(self, uri: str) -> bool:
        """Tell whether a URI lies below one of the roots."""
        return not self.find_outside(pa.array([uri], pa.string()))[0].as_py()

    def find(self, uri: str) -> Storage:
        """Return the storage at a URI, with the options if its store has any."""
        return Storage.of(uri, keep_for(uri, self.options))

    def open(self, uri: str) -> Storage:
        """Return the storage at the URI of a file, which opens it only below these roots."""
        return self.confine(self.find(uri))

    def confine(self, storage: Storage) -> Storage:
        """Return a storage that opens no file outside these roots, even if links change meanwhile.

        With `follow_links` it is the storage itself.
        """
        return storage if self.follow_links else storage.confine(self.uris or ())

    def locate(self, uri: str) -> str:
        """Return the form in which a URI is compared: a path with links resolved, or the URI."""
        return self._resolve(uri, os.path.realpath) if uri_scheme(uri) == "file" else uri

    def _resolve(self, path: str, find_real: Callable[[str], str]) -> str:
        """Return where a path really leads.

        Args:
            path: Absolute path.
            find_real: Function that does so for folders. It may cache them, since many files share
                a folder; for a file, only a check whether it is a link is needed.
        """
        if self.follow_links or "\0" in path:  # no file has such a name
            return os.path.normpath(path)
        folder, name = os.path.split(path)
        real = os.path.join(find_real(folder), name)
        if name in ("", ".", "..") or os.path.islink(real):
            return os.path.realpath(real)
        return real


@dataclass
class Gate:
    """Admits URIs below the roots, and remembers the others for one message about them."""

    roots: Roots
    passed: int = 0
    """Number of URIs that passed."""
    stopped: int = 0
    """Number of URIs that were stopped."""
    first: str = ""
    """First URI that was stopped."""
    first_without_root: str = ""
    """First stopped URI that no root could contain."""
    _ends: dict[str, tuple[str, str]] = field(default_factory=dict, init=False)
    """First and last stopped URI, in sorted order, by store or top folder."""

    def admits(self, uri: str) -> bool:
        """Tell whether a URI may be opened."""
        is_inside = self.roots.hold(uri)
        self.count([uri], [not is_inside])
        return is_inside

    def count(self, uris: Iterable[str], outside: Iterable[bool]) -> None:
        """Count URIs; `outside` says for each whether it lies outside of the roots."""
        for uri, is_outside in zip(uris, outside, strict=True):
            if is_outside:
                self._stop(uri)
            else:
                self.passed += 1

    def _stop(self, uri: str) -> None:
        self.stopped += 1
        self.first = self.first or uri
        place = self.roots.locate(uri)
        steps_up = uri_scheme(place) != "file" and ".." in place.split("/")
        if steps_up or not is_allowed(place):
            self.first_without_root = self.first_without_root or uri
            return
        store = uri_store(place)
        group = "/".join(place.split("/")[:2]) if store == "file" else store
        least, greatest = self._ends.get(group, (place, place))
        self._ends[group] = (min(least, place), max(greatest, place))

    @property
    def flag(self) -> str:
        """The flag that would admit the stopped URIs, and those that have passed so far."""
        known = list(self.roots.uris or ()) if self.passed else []
        more = []
        for group in sorted(self._ends)[:_SUGGESTED]:
            # the deepest folder with all URIs of the group; it ends before the first comma, since
            # the flag separates folders by commas
            shared = os.path.commonprefix(list(self._ends[group]))  # noqa: RUF071 (cut at the last /)
            more.append(shared.partition(",")[0].rpartition("/")[0] or "/")
        folders = ",".join(dict.fromkeys(known + more))
        return f"{FLAG} {shlex.quote(folders)}"

    @property
    def reason(self) -> str:
        """Text that follows the number of URIs: the reason, an example, and the remedy."""
        if self.first_without_root:
            return (
                f"at places that are never opened, for example {redact(self.first_without_root)}; "
                "give paths, s3://, gs:// or az://, without .."
            )
        roots = self.roots.uris or ()
        shown = ", ".join(roots[:_SHOWN]) or "any known folder"
        if len(roots) > _SHOWN:
            shown += f" and {len(roots) - _SHOWN} more"
        return (
            f"not below {shown}, for example {redact(self.first)}; to open them, give {self.flag}"
        )


def default_root(images: str) -> str:
    """Return the root that `--images` implies where none is given.

    Args:
        images: Folder, glob, file or Parquet manifest.

    Returns:
        The folder itself, the folder before the first wildcard of a glob, or the bucket or local
        folder that holds a manifest.

    Raises:
        InputError: The URI is not valid.
    """
    if images.endswith(".parquet"):
        manifest = Storage.of(images).uri
        store = uri_store(manifest)
        return (os.path.dirname(manifest) or "/") if store == "file" else store
    return Storage.of(fixed_part(images)).uri


def fixed_part(glob: str) -> str:
    """Return the folder before the first wildcard of a glob as written; a plain URI as it is."""
    places = [glob.find(wildcard) for wildcard in "*?[" if wildcard in glob]
    if not places:
        return glob
    folder, slash, _ = glob[: min(places)].rpartition("/")
    return folder or slash or "."
