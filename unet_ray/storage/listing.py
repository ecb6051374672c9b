"""Listing an archive: the files of a folder, a glob or a Parquet manifest."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import translate
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from unet_ray.errors import InputError
from unet_ray.flags import parse_age, parse_patterns
from unet_ray.storage.backends.base import Links
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.roots import Gate, Roots, default_root, fixed_part
from unet_ray.storage.storage import FileEntry, Storage, dangling_link
from unet_ray.storage.uris import uri_scheme

FILES = pa.schema(
    [("path", pa.string()), ("uri", pa.string()), ("etag", pa.string()), ("size", pa.int64())]
)
"""Columns of a scan, fields of `FileEntry`."""
_LISTED = FILES.append(pa.field("modified_s", pa.float64()))
"""Columns of a listing from which a scan selects files."""
_BATCH = 10_000
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
        """What was done with links, known at the end."""
        self.known = self.others = 0
        """Files read so far: given, and left out for their suffix. A link to nothing is given
        where its suffix is known; else it may stand for a folder, which is an error."""
        self.excluded = self.young = 0
        """Files of a known kind that the patterns, and then the age, of the selection left out."""
        self.selection = selection
        self.named = named
        """Flag and URI, for messages."""
        self._filter = selection.make_filter()
        youngest = selection.min_age_s
        self._latest_s = None if youngest is None else time.time() - youngest
        self._is_there, self._batches = batches is not None, batches or iter(())
        self._suffixes = suffixes

    def __iter__(self) -> Iterator[Any]:
        """Yield Arrow batches of FILES; there may be none.

        Raises:
            InputError: A folder that cannot be listed to its end, a link to what may be a folder, a
                file name that is not UTF-8, a store that does not tell the age that is asked for.
        """
        with _as_input_errors(self.named):
            for batch in self._batches:
                known = batch
                if self._suffixes:
                    is_known = self._is_known(batch["path"])
                    known = batch.filter(is_known)
                    _refuse_dangling_links(batch.filter(pc.invert(is_known)))
                self.others += len(batch) - len(known)
                selected = self._leave_out_young(self._leave_out_excluded(known))
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
        what = f"{self.others} files, none with a known image suffix" if self.others else "no files"
        suffixes = f" ({', '.join(sorted(self._suffixes))})" if self._suffixes else ""
        links = f"; {describe_links(self.links.left_out)}" if self.links.left_out else ""
        return f"{self.named}: {what}{suffixes}{links}"

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
        raise dangling_link(dangling["uri"][0].as_py())


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
    start at its folder. Whether it names a file twice is for the caller to find out.

    Args:
        uri: URI of the folder, glob or manifest.
        suffixes: Known suffixes, lower case, with the dot; all rows of a manifest count.
        flag: Flag that named the URI, for messages.
        selection: Which files of known suffixes to give.
        roots: Folders below which the files of a manifest lie, by default its own bucket or folder;
            and whether links are followed that lead out of them, or of the folder that is listed.

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
            manifest = _open_manifest(uri, named, roots)
            root = manifest.find_root()
            source = root, manifest.files(root), "image_etag" not in manifest.columns
        else:
            root, batches = _found(uri, links)
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
    return Listing(scan.root, in_order, scan.others, scan.links.left_out)


def listed_twice(named: str, count: int, first: str) -> InputError:
    """Return the error of a manifest that names files more than once."""
    return InputError(
        f"{named}: {count} URIs are listed twice, the first is {first}; list each once"
    )


def path_suffix(path: str) -> str:
    """Return a path's suffix, lower case, with the dot."""
    return PurePosixPath(path).suffix.lower()


def _found(uri: str, links: Links) -> tuple[Storage, Iterator[Any] | None]:
    """Return the storage of the files at a URI, and the files.

    On a store that knows no folders the files are None where nothing is there.
    """
    root = Storage.of(uri)
    if root.is_file():
        return Storage(root.uri.rpartition("/")[0] or "/", root.options), _in_batches(
            [root.entry()]
        )
    if root.exists():
        return root, _in_batches(root.walk(links=links))
    if any(c in uri for c in "*?["):
        return _glob(uri, links)
    if root.is_local:
        raise FileNotFoundError(uri)
    return root, None


def _glob(uri: str, links: Links) -> tuple[Storage, Iterator[Any]]:
    fixed = fixed_part(uri)
    root = Storage.of(fixed)
    if not root.exists():
        raise FileNotFoundError(uri)
    wanted = uri.removeprefix(fixed).lstrip("/")
    pattern = re.compile(glob_translate(wanted))

    def matches(entry: FileEntry) -> bool:
        """Tell whether a file is asked for, or a link to nothing that may hide some."""
        return bool(pattern.match(entry.path)) or (
            not entry.etag and _may_hold(entry.path, wanted.split("/"))
        )

    return root, _in_batches(filter(matches, root.walk(links=links)))


def _may_hold(folder: str, parts: list[str]) -> bool:
    """Tell whether files that match a glob, which is given part by part, may lie below a folder."""
    depth = folder.count("/") + 1
    above = parts[:depth]
    return "**" in above or (
        depth < len(parts) and bool(re.match(glob_translate("/".join(above)), folder))
    )


def _in_batches(entries: Iterable[FileEntry]) -> Iterator[Any]:
    remaining = iter(entries)
    while some := list(islice(remaining, _BATCH)):
        for entry in some:
            _refuse_names_beyond_utf8(entry.path)
        columns = [
            pa.array([getattr(entry, field.name) for entry in some], field.type)
            for field in _LISTED
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=_LISTED)


def _refuse_names_beyond_utf8(path: str) -> None:
    """Raise InputError for a name that is not text (surrogates, as Python reads it)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path!r}: a file name that is not UTF-8; rename it") from None


def _open_manifest(uri: str, named: str, roots: Roots) -> _Manifest:
    source = Storage.of(uri)
    try:
        with source.open() as file:
            columns = pq.ParquetFile(file).schema_arrow.names
    except (FileNotFoundError, PermissionError, ConnectionError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri}: not a Parquet manifest: {error}") from None
    if "image_uri" not in columns:
        raise InputError(
            f"{uri}: the manifest has no column image_uri (it has {', '.join(columns)})"
        )
    wanted = [name for name in ("image_uri", "image_etag", "image_bytes") if name in columns]
    folder = Storage.of(uri.rpartition("/")[0] or ".")
    return _Manifest(source, folder, tuple(wanted), named, roots)


@dataclass(frozen=True)
class _Manifest:
    """A Parquet manifest. What it names is resolved, and compared with its roots, batch by batch.

    The files of a manifest lie on one store, that of its first row.
    """

    source: Storage
    folder: Storage
    """Folder of the manifest, where relative names start."""
    columns: tuple[str, ...]
    named: str
    roots: Roots

    def find_root(self) -> Storage:
        """Return a storage that opens its files.

        Raises:
            InputError: The first row names a file outside the roots.
        """
        batches = self._rows(["image_uri"])
        first = next((batch["image_uri"][:1] for batch in batches if len(batch)), None)
        if first is None:
            return self.folder
        self._check_below_roots(self._resolve(first))
        name = str(first[0])
        return Storage.of(name) if "://" in name else self.folder

    def files(self, root: Storage) -> Iterator[Any]:
        """Yield batches of FILES.

        Args:
            root: Storage that opens the files.

        Raises:
            InputError: Files outside the roots, or on several stores.
        """
        for batch in self._rows(self.columns):
            uris = self._resolve(batch["image_uri"])
            self._check_below_roots(uris)
            others = uris.filter(pc.invert(_are_of_scheme(uris, uri_scheme(root.uri))))
            if len(others):
                raise InputError(
                    f"{others[0]}: a manifest names files of one store only, this one began with "
                    f"{root.uri}"
                )
            yield _manifest_batch(batch, uris, root)

    def _rows(self, columns: Sequence[str]) -> Iterator[Any]:
        with self.source.open() as file:
            yield from pq.ParquetFile(file).iter_batches(_BATCH, columns=list(columns))

    def _uris(self) -> Iterator[Any]:
        return (self._resolve(batch["image_uri"]) for batch in self._rows(["image_uri"]))

    def _resolve(self, names: Any) -> Any:
        """Return the URIs that names mean, as an array of strings."""
        names = names.cast(pa.string())
        is_whole = pc.and_(
            pc.match_substring_regex(names, "^[^/]*://"), pc.invert(pc.starts_with(names, "file:"))
        )
        if not names.null_count and pc.all(is_whole).as_py():
            return names
        return pa.array([self._uri_of(str(name)) for name in names.to_pylist()], pa.string())

    def _uri_of(self, name: str) -> str:
        if name.startswith("file://"):
            return Storage.of(name).uri
        is_path = self.folder.is_local and name.startswith("/")
        return name if is_path or uri_scheme(name) != "file" else self.folder.uri_of(name)

    def _check_below_roots(self, uris: Any) -> None:
        """Raise InputError where a URI lies outside; the message counts all of the manifest."""
        if not pc.any(self.roots.find_outside(uris)).as_py():
            return
        gate = Gate(self.roots)
        for some in self._uris():
            gate.count(some.to_pylist(), self.roots.find_outside(some).to_pylist())
        raise InputError(f"{self.named}: {gate.stopped} images {gate.reason}")


def _are_of_scheme(uris: Any, scheme: str) -> Any:
    if scheme == "file":
        return pc.invert(pc.match_substring_regex(uris, "^[^/]*://"))
    return pc.starts_with(uris, f"{scheme}://")


def _manifest_batch(batch: Any, uris: Any, root: Storage) -> Any:
    """Return a batch of a manifest as one of FILES; the store is asked for missing etags, sizes."""
    whole = {"image_etag", "image_bytes"} <= set(batch.schema.names) and not any(
        c.null_count for c in batch.columns
    )
    if whole:
        names = batch["image_uri"].cast(pa.string())
        etags = pc.utf8_trim(batch["image_etag"].cast(pa.string()), '"')
        columns = [names, uris, etags, batch["image_bytes"].cast(pa.int64())]
        return pa.RecordBatch.from_arrays(columns, schema=FILES)
    rows = batch.to_pylist()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        entries = pool.map(lambda row, uri: _manifest_entry(row, uri, root), rows, uris.to_pylist())
        return next(_in_batches(entries))


def _manifest_entry(row: dict[str, Any], uri: str, root: Storage) -> FileEntry:
    name, etag, size = str(row["image_uri"]), row.get("image_etag"), row.get("image_bytes")
    if etag is None or size is None:
        try:
            entry = Storage(uri, root.options).entry()
        except FileNotFoundError:
            entry = FileEntry(name, uri, "", 0)  # becomes an error row when it is read
        etag, size = etag or entry.etag, entry.size if size is None else size
    return FileEntry(name, uri, str(etag).strip('"'), int(size))
