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
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from unet_ray.errors import InputError
from unet_ray.flags import StoreOptions, parse_age, parse_patterns
from unet_ray.storage.backends.base import Links
from unet_ray.storage.manifest import BATCH, FILES, Manifest
from unet_ray.storage.roots import Roots, default_root, fixed_part
from unet_ray.storage.storage import FileEntry, Storage, dangling_link
from unet_ray.text import escape_controls, is_utf8

_LISTED = FILES.append(pa.field("modified_s", pa.float64()))
"""Columns of a listing from which a scan selects files."""
_FOLDERS = r"(?s:.*)/(?=[^/]*\Z)"
"""Regular expression for all of a path that comes before the file's name."""
_NOTHING_THERE = "there is no such folder or file"


@dataclass(frozen=True)
class Listing:
    """Files of known kinds, sorted, and how many others lie among them."""

    root: Storage
    """Storage that opens the entries' URIs."""
    entries: tuple[FileEntry, ...]
    others: int
    """Files left out for their suffix."""
    note: str | None = None
    """Message about files left out for their names; None where none were."""
    links: int = 0
    """Links that lead out of the folder and were not followed."""


@dataclass(frozen=True)
class Selection:
    """Choice of the files of a known kind that a scan gives; by default all of them.

    A pattern is that of a shell, compared with the whole path below the listed folder, in which `*`
    matches `/` as well; one without `/` is also compared with the file's name. Of a glob, paths
    start below the folder before its first wildcard. Of a manifest, they are the URIs as written.
    """

    include: tuple[str, ...] = ()
    """Patterns; a file that matches none of them is left out. Without any, all files match."""
    exclude: tuple[str, ...] = ()
    """Patterns; a file that matches one of them is left out, even if it is included."""
    min_age_s: float | None = None
    """Files modified less than that ago (s) are left out: they may still be uploading. A time in
    the future counts as young, since clocks differ."""

    @staticmethod
    def parse(include: str | None, exclude: str | None, min_age: str | None = None) -> Selection:
        """Return the selection that flags ask for; raise InputError for a value that is none."""
        return Selection(
            parse_patterns(include, "--include"),
            parse_patterns(exclude, "--exclude"),
            parse_age(min_age, "--min-age"),
        )

    def make_filter(self) -> re.Pattern[str] | None:
        """Return what the path of a file with one `/` before it must match; None: anything does."""
        if not self.include and not self.exclude:
            return None
        wanted, unwanted = _any_of(self.include or ("*",)), _any_of(self.exclude)
        return re.compile(f"(?!{unwanted})(?:{wanted})" if self.exclude else wanted)


def _any_of(patterns: Iterable[str]) -> str:
    """Return a regular expression for any of some shell patterns, of a path with `/` before it."""
    whole = [f"/{translate(pattern)}" for pattern in patterns]
    names = [_FOLDERS + translate(pattern) for pattern in patterns if "/" not in pattern]
    return "|".join(whole + names)


ALL_FILES = Selection()


class FileScan:
    """The files of a folder, a glob or a manifest, read as they are asked for, once."""

    def __init__(
        self,
        source: tuple[Storage, Iterator[Any] | None, bool],
        suffixes: Collection[str] | None,
        named: str,
        selection: Selection,
        roots: Roots,
        links: Links,
    ) -> None:
        self.root, batches, self.etags_of_store = source
        """Storage that opens the files' URIs, and whether the etags are the store's: a manifest may
        have others."""
        self.roots = roots
        """Roots below which all files lie, but for what links lead to."""
        self.links = links
        """Links that were left out, known at the end."""
        self.known = self.others = 0
        """Files read so far: given, and left out for their suffix. A link to nothing is given
        where its suffix is known; else it may stand for a folder, which is an error."""
        self.nameless = 0
        """Files of a known kind whose names are not UTF-8, and rows of a manifest without a name:
        no table could name them, so they are left out."""
        self.excluded = self.young = 0
        """Files of a known kind that the patterns, and then the age, of the selection left out."""
        self.selection = selection
        self.named = named
        """Flag and URI, for messages."""
        self._filter = selection.make_filter()
        youngest = selection.min_age_s
        self._latest_s = None if youngest is None else time.time() - youngest
        self._first_nameless = ""
        self._is_there, self._batches = batches is not None, batches or iter(())
        self._suffixes = suffixes

    def __iter__(self) -> Iterator[Any]:
        """Yield Arrow batches of FILES; there may be none.

        Raises:
            InputError: A folder that cannot be listed to its end, a link to what may be a folder, a
                store that does not tell the age that is asked for.
        """
        with _as_input_errors(self.named):
            for batch in self._batches:
                known = batch
                if self._suffixes:
                    is_known = self._is_known(batch["path"])
                    known = batch.filter(is_known)
                    _refuse_dangling_links(batch.filter(pc.invert(is_known)))
                self.others += len(batch) - len(known)
                named = self._leave_out_nameless(known)
                selected = self._leave_out_young(self._leave_out_excluded(named))
                self.known += len(selected)
                yield selected.select(FILES.names)

    @property
    def emptiness(self) -> str | None:
        """Message for a listing that gives no file; else None.

        Files that are too young are there: a later run does them.
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
        """Message about what was left out because it has no name; None where nothing was."""
        if not self.nameless:
            return None
        if self._suffixes is None:
            return (
                f"{self.named}: {self.nameless} rows are left out, whose image_uri is null, empty, "
                "longer than 8192 bytes or not UTF-8"
            )
        return (
            f"{self.named}: {self.nameless} images are left out, whose file names are not UTF-8, "
            f"the first is {self._first_nameless}; rename them"
        )

    def _leave_out_nameless(self, files: Any) -> Any:
        """Return the files that have a URI, and count the others."""
        is_nameless = pc.is_null(files["uri"])
        nameless = files["path"].filter(is_nameless)
        if not len(nameless):
            return files
        self.nameless += len(nameless)
        self._first_nameless = self._first_nameless or nameless[0].as_py() or ""
        return files.filter(pc.invert(is_nameless))

    def _leave_out_excluded(self, files: Any) -> Any:
        """Return the files that match the patterns, and count the others."""
        if self._filter is None:
            return files
        matches = self._filter.match
        selected = files.filter(
            pa.array([bool(matches(f"/{p}")) for p in files["path"].to_pylist()], pa.bool_())
        )
        self.excluded += len(files) - len(selected)
        return selected

    def _leave_out_young(self, files: Any) -> Any:
        """Return the files that are old enough, and count the others."""
        if self._latest_s is None:
            return files
        modified_s, is_dangling = files["modified_s"], pc.equal(files["etag"], "")
        if pc.any(pc.and_(pc.is_null(modified_s), pc.invert(is_dangling))).as_py():
            raise InputError(
                f"{self.named}: this store does not tell when files were modified; run without "
                "--min-age"
            )
        selected = files.filter(pc.fill_null(pc.less_equal(modified_s, self._latest_s), True))
        self.young += len(files) - len(selected)
        return selected

    def _is_known(self, paths: Any) -> Any:
        found = pc.extract_regex(pc.utf8_lower(paths), r"(?P<suffix>\.[^./]+)$")
        return pc.is_in(pc.struct_field(found, "suffix"), pa.array(sorted(self._suffixes or ())))


def describe_links(left_out: int) -> str:
    """Say how many links a listing did not follow, and which flag makes it."""
    return f"{left_out} links that lead out of the folder were not followed (--follow-links)"


def _refuse_dangling_links(files: Any) -> None:
    dangling = files.filter(pc.equal(files["etag"], ""))
    if len(dangling):
        raise dangling_link(dangling["uri"][0].as_py() or dangling["path"][0].as_py())


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
    start at its folder. Whether it names a file twice is for the caller to find out. A row whose
    file is not there, or may not be looked at, has no etag: reading it reports the reason.

    Args:
        uri: URI of the folder, glob or manifest.
        suffixes: Known suffixes, lower case, with the dot; all rows of a manifest count.
        flag: Flag that named the URI, for messages.
        selection: Which files of known suffixes to give.
        roots: Folders below which the files of a manifest lie, by default its own bucket or folder;
            whether links are followed that lead out of them, or of the folder that is listed;
            and the options of the store of the folder, or of the files and of the manifest.

    Raises:
        InputError: Nothing there, not a manifest, no permission, an age asked of a manifest, or a
            manifest that begins with a file outside the roots.
    """
    named, is_manifest = f"{flag} {uri}", uri.endswith(".parquet")
    if is_manifest and selection.min_age_s is not None:
        raise InputError(
            f"{named}: a manifest does not tell when files were modified; leave young ones out of "
            "it, and run without --min-age"
        )
    links = Links(roots.follow_links)
    source: tuple[Storage, Iterator[Any] | None, bool]
    with _as_input_errors(named):
        if is_manifest:
            roots = roots.or_default(default_root(uri))
            manifest = Manifest.open(uri, named, roots)
            root = roots.confine(manifest.find_root())
            source = root, manifest.files(root), "image_etag" not in manifest.columns
        else:
            root, batches = _found(uri, links, roots.options)
            roots, source = replace(roots, uris=(root.uri,)), (root, batches, True)
    return FileScan(source, None if is_manifest else suffixes, named, selection, roots, links)


def list_files(
    uri: str,
    suffixes: Collection[str],
    flag: str,
    roots: Roots = Roots(),  # noqa: B008 (it is frozen)
) -> Listing:
    """List the files of a folder, a glob or a manifest, as `scan_files` does.

    Raises:
        InputError: As `scan_files`, no file of a known kind, or a URI that is listed twice.
    """
    scan = scan_files(uri, suffixes, flag, roots=roots)
    entries = [FileEntry(**row) for batch in scan for row in batch.to_pylist()]
    if scan.emptiness:
        raise InputError(scan.emptiness)
    twice = [name for name, times in Counter(entry.uri for entry in entries).items() if times > 1]
    if twice:
        raise listed_twice(f"{flag} {uri}", len(twice), min(twice))
    in_order = tuple(sorted(entries, key=lambda entry: entry.uri))
    return Listing(scan.root, in_order, scan.others, scan.note, scan.links.left_out)


def listed_twice(named: str, count: int, first: str) -> InputError:
    """Return the error of a manifest that names files more than once."""
    return InputError(
        f"{named}: {count} URIs are listed twice, the first is {first}; list each once"
    )


def path_suffix(path: str) -> str:
    """Return a path's suffix, lower case, with the dot."""
    return PurePosixPath(path).suffix.lower()


def _found(uri: str, links: Links, options: StoreOptions) -> tuple[Storage, Iterator[Any] | None]:
    """Return the storage of the files at a URI, and the files.

    Unless links are followed, the storage opens nothing that lies elsewhere by then. On a store
    that knows no folders the files are None where nothing is there.
    """
    root = Storage.of(uri, options)
    opener = root if links.follow else root.confine([root.uri])
    if root.is_file():
        return opener.at(root.uri.rpartition("/")[0] or "/"), _in_batches([root.entry()])
    if root.exists():
        return opener, _in_batches(root.walk(links=links))
    if any(c in uri for c in "*?["):
        return _glob(uri, links, options)
    if root.is_local:
        raise FileNotFoundError(uri)
    return root, None


def _glob(uri: str, links: Links, options: StoreOptions) -> tuple[Storage, Iterator[Any]]:
    fixed = fixed_part(uri)
    root = Storage.of(fixed, options)
    if not root.exists():
        raise FileNotFoundError(uri)
    wanted = uri.removeprefix(fixed).lstrip("/")
    pattern = re.compile(glob_translate(wanted))

    def matches(entry: FileEntry) -> bool:
        """Tell whether a file is asked for, or a link to nothing that may hide some."""
        return bool(pattern.match(entry.path)) or (
            not entry.etag and _may_hold(entry.path, wanted.split("/"))
        )

    opener = root if links.follow else root.confine([root.uri])
    return opener, _in_batches(filter(matches, root.walk(links=links)))


def _may_hold(folder: str, parts: list[str]) -> bool:
    """Tell whether files that match a glob, which is given part by part, may lie below a folder."""
    depth = folder.count("/") + 1
    above = parts[:depth]
    return "**" in above or (
        depth < len(parts) and bool(re.match(glob_translate("/".join(above)), folder))
    )


def _in_batches(entries: Iterable[FileEntry]) -> Iterator[Any]:
    """Yield batches of _LISTED. A file whose name is not UTF-8 has an escaped path and no URI."""
    remaining = iter(entries)
    while some := list(islice(remaining, BATCH)):
        columns = {name: [getattr(entry, name) for entry in some] for name in _LISTED.names}
        for index, entry in enumerate(some):
            if not is_utf8(entry.path):
                columns["path"][index], columns["uri"][index] = escape_controls(entry.path), None
        yield pa.RecordBatch.from_pydict(columns, schema=_LISTED)
