"""Listing an archive: the files of a folder, a glob or a Parquet manifest."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import translate
from itertools import islice
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from unet_ray.errors import InputError
from unet_ray.flags import parse_age, parse_patterns
from unet_ray.storage.backends.base import Links
from unet_ray.storage.file_entry import BATCH, FILES, FileEntry
from unet_ray.storage.manifest import Manifest
from unet_ray.storage.roots import Roots, default_root, fixed_part
from unet_ray.storage.storage import Storage, dangling_link
from unet_ray.store_options import StoreOptions
from unet_ray.text import escape_controls, is_utf8

_LISTED = FILES.append(pa.field("modified_s", pa.float64()))
"""Columns of a listing from which a scan selects files."""
_FOLDERS = r"(?s:.*)/(?=[^/]*\Z)"
"""Regular expression for the part of a path before the file's name."""
_NOTHING_THERE = "there is no such folder or file"


@dataclass(frozen=True)
class Listing:
    """Files of known kinds, sorted, and the number of others among them."""

    root: Storage
    """Storage that opens the entries' URIs."""
    entries: tuple[FileEntry, ...]
    others: int
    """Number of files left out because of their suffix."""
    note: str | None = None
    """Message about files left out because of their names; None if there are none."""
    links: int = 0
    """Number of links that lead out of the folder and were not followed."""


@dataclass(frozen=True)
class Selection:
    """Conditions for the files of known kinds that a scan yields; by default all of them.

    Patterns are shell patterns, except that `*` also matches `/`. They are compared with the whole
    path below the listed folder and, if they have no `/`, with the file's name too. For a glob,
    paths start below the folder before its first wildcard; for a manifest, they are the URIs as
    written.
    """

    include: tuple[str, ...] = ()
    """Patterns; a file that matches none of them is left out. Without any, all files match."""
    exclude: tuple[str, ...] = ()
    """Patterns; a file that matches one of them is left out, even if it is included."""
    min_age_s: float | None = None
    """Minimum age of a file (s); younger files are left out, since they may still be uploading. A
    time in the future counts as young, since clocks differ."""

    @staticmethod
    def parse(include: str | None, exclude: str | None, min_age: str | None = None) -> Selection:
        """Return the selection that flags ask for; raise InputError for an invalid value."""
        return Selection(
            parse_patterns(include, "--include"),
            parse_patterns(exclude, "--exclude"),
            parse_age(min_age, "--min-age"),
        )

    def make_filter(self) -> re.Pattern[str] | None:
        """Return the pattern that `/` and a file's path must match; None if any path will do."""
        if not self.include and not self.exclude:
            return None
        wanted = _match_any(self.include or ("*",))
        if not self.exclude:
            return re.compile(wanted)
        unwanted = _match_any(self.exclude)
        return re.compile(f"(?!{unwanted})(?:{wanted})")


def _match_any(patterns: Iterable[str]) -> str:
    """Return a regular expression for `/` and a path that matches one of some shell patterns."""
    whole = [f"/{translate(pattern)}" for pattern in patterns]
    names = [_FOLDERS + translate(pattern) for pattern in patterns if "/" not in pattern]
    return "|".join(whole + names)


ALL_FILES = Selection()


@dataclass(frozen=True)
class _FoundFiles:
    """The files at a URI, before any of them is left out."""

    root: Storage
    """Storage that opens the files' URIs."""
    batches: Iterator[pa.RecordBatch] | None
    """Batches of _LISTED, or of FILES for a manifest; None where nothing is there."""
    etags_of_store: bool = True
    """True if the etags are the store's; a manifest may state others."""


class FileScan:
    """The files of a folder, a glob or a manifest, read once and lazily."""

    def __init__(
        self,
        found: _FoundFiles,
        suffixes: Collection[str] | None,
        named: str,
        selection: Selection,
        roots: Roots,
        links: Links,
    ) -> None:
        self.root = found.root
        """Storage that opens the files' URIs."""
        self.etags_of_store = found.etags_of_store
        """True if the etags are the store's; a manifest may state others."""
        self.roots = roots
        """Roots below which all files lie, except those that links lead to."""
        self.links = links
        """Rule for links; its count of links left out is complete at the end."""
        self.known = self.others = 0
        """Numbers of files so far that were yielded, and that were left out for their suffix. A
        link to nothing counts as a file if its suffix is known; otherwise it may stand for a
        folder, which is an error."""
        self.nameless = 0
        """Number of files of a known kind whose names are not UTF-8, and of rows of a manifest
        without a name. They are left out, since no table could name them."""
        self.excluded = self.young = 0
        """Numbers of files of a known kind that the selection left out: by its patterns, and by its
        age among the remaining files."""
        self.selection = selection
        self.named = named
        """Flag and URI, for messages."""
        self._filter = selection.make_filter()
        youngest = selection.min_age_s
        self._latest_s = None if youngest is None else time.time() - youngest
        self._first_nameless = ""
        self._is_there = found.batches is not None
        self._batches = found.batches or iter(())
        self._suffixes = suffixes

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield Arrow batches of FILES; there may be none.

        Raises:
            InputError: A folder cannot be listed to its end, a link to nothing may stand for a
                folder, or a minimum age is given but the store does not state file times.
        """
        with _as_input_errors(self.named):
            for batch in self._batches:
                files = self._leave_out_other_kinds(batch)
                files = self._leave_out_nameless(files)
                files = self._leave_out_excluded(files)
                files = self._leave_out_young(files)
                self.known += len(files)
                yield files.select(FILES.names)

    @property
    def emptiness(self) -> str | None:
        """Message for a listing that yields no file; None if it yields some.

        Files that are too young do not make it empty: a later run does them.
        """
        if self.known or self.young:
            return None
        if not self._is_there:
            return f"{self.named}: {_NOTHING_THERE}"
        if self.excluded:
            return (
                f"{self.named}: --include/--exclude leave out all {self.excluded} images; change "
                "the patterns, or go on with --allow-empty"
            )
        if self.note:
            return self.note
        what = f"{self.others} files, none with a known image suffix" if self.others else "no files"
        suffixes = f" ({', '.join(sorted(self._suffixes))})" if self._suffixes else ""
        links = f"; {describe_links(self.links.left_out)}" if self.links.left_out else ""
        return f"{self.named}: {what}{suffixes}{links}"

    @property
    def note(self) -> str | None:
        """Message about files left out for lack of a usable name; None if there are none."""
        if not self.nameless:
            return None
        if self._suffixes is None:
            return (
                f"{self.named}: {self.nameless} rows are left out because their image_uri is null, "
                "empty, longer than 8192 bytes or not UTF-8"
            )
        return (
            f"{self.named}: {self.nameless} images are left out because their file names are not "
            f"UTF-8, the first is {self._first_nameless}; rename them"
        )

    def _leave_out_other_kinds(self, files: pa.RecordBatch) -> pa.RecordBatch:
        """Return the files with a known suffix, and count the others.

        Raises:
            ListingError: One of the others is a link to nothing, which may stand for a folder.
        """
        if not self._suffixes:
            return files
        found = pc.extract_regex(pc.utf8_lower(files["path"]), r"(?P<suffix>\.[^./]+)$")
        suffixes = pc.struct_field(found, "suffix")
        is_known = pc.is_in(suffixes, pa.array(sorted(self._suffixes)))
        others = files.filter(pc.invert(is_known))
        dangling = others.filter(pc.equal(others["etag"], ""))
        if len(dangling):
            raise dangling_link(dangling["uri"][0].as_py() or dangling["path"][0].as_py())
        self.others += len(others)
        return files.filter(is_known)

    def _leave_out_nameless(self, files: pa.RecordBatch) -> pa.RecordBatch:
        """Return the files that have a URI, and count the others."""
        is_nameless = pc.is_null(files["uri"])
        nameless = files["path"].filter(is_nameless)
        if not len(nameless):
            return files
        self.nameless += len(nameless)
        self._first_nameless = self._first_nameless or nameless[0].as_py() or ""
        return files.filter(pc.invert(is_nameless))

    def _leave_out_excluded(self, files: pa.RecordBatch) -> pa.RecordBatch:
        """Return the files that match the patterns, and count the others."""
        if self._filter is None:
            return files
        matches = self._filter.match
        is_selected = [matches(f"/{path}") is not None for path in files["path"].to_pylist()]
        selected = files.filter(pa.array(is_selected, pa.bool_()))
        self.excluded += len(files) - len(selected)
        return selected

    def _leave_out_young(self, files: pa.RecordBatch) -> pa.RecordBatch:
        """Return the files that are old enough, and count the others."""
        if self._latest_s is None:
            return files
        modified_s = files["modified_s"]
        is_file = pc.not_equal(files["etag"], "")  # not a link to nothing
        if pc.any(pc.and_(pc.is_null(modified_s), is_file)).as_py():
            raise InputError(
                f"{self.named}: this store does not state when files were modified; run without "
                "--min-age"
            )
        is_old = pc.less_equal(modified_s, self._latest_s)
        selected = files.filter(pc.fill_null(is_old, True))
        self.young += len(files) - len(selected)
        return selected


def describe_links(left_out: int) -> str:
    """Return a message on the links that a listing did not follow, and the flag to follow them."""
    return f"{left_out} links that lead out of the folder were not followed (--follow-links)"


@contextmanager
def _as_input_errors(named: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{named}: {_NOTHING_THERE}") from None
    except OSError as error:
        raise InputError(f"{named}: cannot be listed: {error}") from None


def scan_files(
    uri: str,
    suffixes: Collection[str],
    flag: str,
    selection: Selection = ALL_FILES,
    roots: Roots = Roots(),  # noqa: B008 (it is frozen)
) -> FileScan:
    """Open the files of a folder (recursively), a glob or a Parquet manifest.

    A manifest has the column `image_uri` and may have `image_etag` and `image_bytes`; relative URIs
    start at its folder. It may name a file twice, which the caller must check. A row whose file
    is missing or forbidden has no etag: reading the file reports the reason.

    Args:
        uri: URI of the folder, glob or manifest.
        suffixes: Known suffixes, in lower case and with the dot. They do not apply to the rows of a
            manifest.
        flag: Flag that named the URI, for messages.
        selection: Conditions for the files of known suffixes.
        roots: Folders below which the files of a manifest lie, by default its own bucket or folder.
            They also state whether to follow links that lead out of them or of the listed folder,
            and hold the options of the store of the files and the manifest.

    Raises:
        InputError: Nothing exists there, the file is not a manifest or may not be read, or it is a
            manifest and a minimum age is given or its first file lies outside the roots.
    """
    named = f"{flag} {uri}"
    is_manifest = uri.endswith(".parquet")
    if is_manifest and selection.min_age_s is not None:
        raise InputError(
            f"{named}: a manifest does not state when files were modified; leave recent files "
            "out of it and run without --min-age"
        )
    links = Links(roots.follow_links)
    with _as_input_errors(named):
        if is_manifest:
            roots = roots.or_default(default_root(uri))
            manifest = Manifest.open(uri, named, roots)
            root = roots.confine(manifest.find_root())
            found = _FoundFiles(root, manifest.files(root), "image_etag" not in manifest.columns)
        else:
            found = _find_files(uri, links, roots.options)
            roots = replace(roots, uris=(found.root.uri,))
    return FileScan(
        found,
        suffixes=None if is_manifest else suffixes,
        named=named,
        selection=selection,
        roots=roots,
        links=links,
    )


def list_files(
    uri: str,
    suffixes: Collection[str],
    flag: str,
    roots: Roots = Roots(),  # noqa: B008 (it is frozen)
) -> Listing:
    """List the files of a folder, a glob or a manifest, as `scan_files` does.

    Raises:
        InputError: Same as `scan_files`; or there is no file of a known kind, or a URI twice.
    """
    scan = scan_files(uri, suffixes, flag, roots=roots)
    entries = [FileEntry(**row) for batch in scan for row in batch.to_pylist()]
    if scan.emptiness:
        raise InputError(scan.emptiness)
    counts = Counter(entry.uri for entry in entries)
    twice = [name for name, times in counts.items() if times > 1]
    if twice:
        raise listed_twice(f"{flag} {uri}", len(twice), min(twice))
    return Listing(
        root=scan.root,
        entries=tuple(sorted(entries, key=lambda entry: entry.uri)),
        others=scan.others,
        note=scan.note,
        links=scan.links.left_out,
    )


def listed_twice(named: str, num_uris: int, first: str) -> InputError:
    """Return the error for a manifest that names files more than once."""
    return InputError(
        f"{named}: {num_uris} URIs are listed more than once, the first is {first}; list each "
        "only once"
    )


def path_suffix(path: str) -> str:
    """Return a path's suffix, lower case, with the dot."""
    return PurePosixPath(path).suffix.lower()


def _find_files(uri: str, links: Links, options: StoreOptions) -> _FoundFiles:
    """Find the files of a folder or a glob, or the one file at a URI.

    Unless links are followed, the storage refuses files that lie elsewhere when they are opened.

    Raises:
        FileNotFoundError: Nothing is there, on a store that knows folders.
    """
    root = Storage.of(uri, options)
    opener = root if links.follow else root.confine([root.uri])
    if root.is_file():
        folder = root.uri.rpartition("/")[0] or "/"
        return _FoundFiles(opener.at(folder), _in_batches([root.entry()]))
    if root.exists():
        return _FoundFiles(opener, _in_batches(root.walk(links=links)))
    if any(wildcard in uri for wildcard in "*?["):
        return _find_by_glob(uri, links, options)
    if root.is_local:
        raise FileNotFoundError(uri)
    return _FoundFiles(root, None)


def _find_by_glob(uri: str, links: Links, options: StoreOptions) -> _FoundFiles:
    fixed = fixed_part(uri)
    root = Storage.of(fixed, options)
    if not root.exists():
        raise FileNotFoundError(uri)
    wanted = uri.removeprefix(fixed).lstrip("/")
    parts = wanted.split("/")
    pattern = re.compile(glob_translate(wanted))

    def matches(entry: FileEntry) -> bool:
        """Tell whether the glob matches a file, or a link to nothing may hide files that match."""
        if pattern.match(entry.path):
            return True
        if entry.etag:  # not a link to nothing
            return False
        depth = entry.path.count("/") + 1
        above = parts[:depth]
        if "**" in above:
            return True
        is_above = re.match(glob_translate("/".join(above)), entry.path) is not None
        return depth < len(parts) and is_above

    opener = root if links.follow else root.confine([root.uri])
    return _FoundFiles(opener, _in_batches(filter(matches, root.walk(links=links))))


def _in_batches(entries: Iterable[FileEntry]) -> Iterator[pa.RecordBatch]:
    """Yield batches of _LISTED. A file whose name is not UTF-8 has an escaped path and no URI."""
    remaining = iter(entries)
    while some := list(islice(remaining, BATCH)):
        columns = {name: [getattr(entry, name) for entry in some] for name in _LISTED.names}
        for index, entry in enumerate(some):
            if not is_utf8(entry.path):
                columns["path"][index] = escape_controls(entry.path)
                columns["uri"][index] = None
        yield pa.RecordBatch.from_pydict(columns, schema=_LISTED)
