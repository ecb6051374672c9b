"""Listing an archive: the files of a folder, a glob or a Parquet manifest."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import translate
from functools import partial
from itertools import islice
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from unet_ray.errors import InputError
from unet_ray.flags import parse_age, parse_patterns
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.storage.backends.base import DanglingLinkError
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage, dangling_link, uri_scheme
from unet_ray.text import escape_controls, is_utf8

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
_MOST_UNANSWERED = 100
"""Largest number of rows of a manifest on end for which their store gives no answer, each after a
quarter of a minute. An image or a disk may have a fault of its own; beyond that the store has."""


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
        selection: Selection = ALL_FILES,
    ) -> None:
        self.root, batches, self.etags_of_store = source
        """Storage that opens the files' URIs, and whether the etags are the store's: a manifest may
        have others."""
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
        return f"{self.named}: {what}{suffixes}"

    @property
    def note(self) -> str | None:
        """Message about what was left out because it has no name; None where nothing was."""
        if not self.nameless:
            return None
        if self._suffixes is None:
            return (
                f"{self.named}: {self.nameless} rows are left out, whose image_uri is null, empty "
                "or not UTF-8"
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
    uri: str, suffixes: Collection[str], flag: str, selection: Selection = ALL_FILES
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

    Raises:
        InputError: Nothing there, not a manifest, no permission, or an age asked of a manifest.
    """
    named, is_manifest = f"{flag} {uri}", uri.endswith(".parquet")
    if is_manifest and selection.min_age_s is not None:
        raise InputError(
            f"{named}: a manifest does not tell when files were modified; leave young ones out of "
            "it, and run without --min-age"
        )
    with _as_input_errors(named):
        source = _manifest(uri) if is_manifest else (*_found(uri), True)
    return FileScan(source, None if is_manifest else suffixes, named, selection)


def list_files(uri: str, suffixes: Collection[str], flag: str) -> Listing:
    """List the files of a folder, a glob or a manifest, as `scan_files` does.

    Raises:
        InputError: As `scan_files`, no file of a known kind, or a URI that is listed twice.
    """
    scan = scan_files(uri, suffixes, flag)
    entries = [FileEntry(**row) for batch in scan for row in batch.to_pylist()]
    if scan.emptiness:
        raise InputError(scan.emptiness)
    twice = [name for name, times in Counter(entry.uri for entry in entries).items() if times > 1]
    if twice:
        raise listed_twice(f"{flag} {uri}", len(twice), min(twice))
    return Listing(
        scan.root, tuple(sorted(entries, key=lambda entry: entry.uri)), scan.others, scan.note
    )


def listed_twice(named: str, count: int, first: str) -> InputError:
    """Return the error of a manifest that names files more than once."""
    return InputError(
        f"{named}: {count} URIs are listed twice, the first is {first}; list each once"
    )


def path_suffix(path: str) -> str:
    """Return a path's suffix, lower case, with the dot."""
    return PurePosixPath(path).suffix.lower()


def _found(uri: str) -> tuple[Storage, Iterator[Any] | None]:
    """Return the storage of the files at a URI, and the files.

    On a store that knows no folders the files are None where nothing is there.
    """
    root = Storage.of(uri)
    if root.is_file():
        return Storage(root.uri.rpartition("/")[0] or "/", root.options), _in_batches(
            [root.entry()]
        )
    if root.exists():
        return root, _in_batches(root.walk())
    if any(c in uri for c in "*?["):
        return _glob(uri)
    if root.is_local:
        raise FileNotFoundError(uri)
    return root, None


def _glob(uri: str) -> tuple[Storage, Iterator[Any]]:
    fixed = uri[: min(uri.find(c) for c in "*?[" if c in uri)].rpartition("/")[0]
    root = Storage.of(fixed or ".")
    if not root.exists():
        raise FileNotFoundError(uri)
    wanted = uri[len(fixed) :].lstrip("/")
    pattern = re.compile(glob_translate(wanted))

    def matches(entry: FileEntry) -> bool:
        """Tell whether a file is asked for, or a link to nothing that may hide some."""
        return bool(pattern.match(entry.path)) or (
            not entry.etag and _may_hold(entry.path, wanted.split("/"))
        )

    return root, _in_batches(filter(matches, root.walk()))


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
    while some := list(islice(remaining, _BATCH)):
        columns = {name: [getattr(entry, name) for entry in some] for name in _LISTED.names}
        for index, entry in enumerate(some):
            if not is_utf8(entry.path):
                columns["path"][index], columns["uri"][index] = escape_controls(entry.path), None
        yield pa.RecordBatch.from_pydict(columns, schema=_LISTED)


def _manifest(uri: str) -> tuple[Storage, Iterator[Any], bool]:
    source = Storage.of(uri)
    with _as_manifest_errors(uri), source.open() as file:
        wanted = _check_columns(uri, pq.ParquetFile(file).schema_arrow)
    folder = Storage.of(uri.rpartition("/")[0] or ".")

    def rows() -> Iterator[Any]:
        with _as_manifest_errors(uri), source.open() as file:
            yield from pq.ParquetFile(file).iter_batches(_BATCH, columns=wanted)

    texts = (_to_texts(batch["image_uri"]).drop_null() for batch in rows())
    first = next((some[0].as_py() for some in texts if len(some)), "")
    root = Storage.of(first) if "://" in first else folder
    names = _ManifestNames(folder, root)
    return root, (_manifest_batch(batch, names) for batch in rows()), "image_etag" not in wanted


@contextmanager
def _as_manifest_errors(uri: str) -> Iterator[None]:
    """Turn what Arrow raises for a file that is damaged, or not Parquet, into one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError, ConnectionError, InputError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError among them
        said = " ".join(str(error).split())
        raise InputError(f"{uri}: not a Parquet manifest: {said}") from None


def _check_columns(uri: str, schema: pa.Schema) -> list[str]:
    """Return the columns of a manifest that are read; raise InputError where one is unusable."""
    if "image_uri" not in schema.names:
        raise InputError(
            f"{uri}: the manifest has no column image_uri (it has {', '.join(schema.names)})"
        )
    wanted = {
        "image_uri": (_is_text, "string"),
        "image_etag": (lambda kind: _is_text(kind) or pa.types.is_primitive(kind), "string"),
        "image_bytes": (_is_number, "int64"),
    }
    found = [name for name in wanted if name in schema.names]
    for name in found:
        is_usable, remedy = wanted[name]
        times = len(schema.get_all_field_indices(name))
        if times > 1:
            raise InputError(f"{uri}: the manifest has {times} columns {name}; keep one")
        kind = schema.field(name).type
        if not is_usable(_value_type(kind)):
            raise InputError(
                f"{uri}: the column {name} of the manifest is {kind}; write it as {remedy}"
            )
    return found


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which may be encoded by a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type are texts, or bytes that may be some."""
    types = pa.types
    are_texts = (types.is_string, types.is_large_string, types.is_string_view)
    are_bytes = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(is_kind(kind) for is_kind in (*are_texts, *are_bytes, types.is_null))


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    are_kinds = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return any(is_kind(kind) for is_kind in are_kinds)


def _to_texts(column: pa.Array, quotes: str = "") -> pa.StringArray:
    """Return a column as strings without these quotes, null where one is empty or not UTF-8."""
    if not _is_text(_value_type(column.type)):  # numbers and times
        return column.cast(pa.string())
    # a string column of a file may hold any bytes; only the cast from bytes looks at them
    encoded = column.cast(pa.binary())
    try:
        texts = encoded.cast(pa.string())
    except pa.ArrowInvalid:
        texts = pa.array([_decode_or_none(data) for data in encoded.to_pylist()], pa.string())
    texts = pc.utf8_trim(texts, quotes) if quotes else texts
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), None, texts)


def _decode_or_none(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _to_sizes(column: pa.Array) -> pa.Int64Array:
    """Return a column as sizes in bytes, null where a number is none: −1, 0.5, NaN, 2^63."""
    try:
        sizes = column.cast(pa.int64())
    except pa.ArrowInvalid:
        sizes = pa.array(
            [size if _is_size(size) else None for size in column.to_pylist()], pa.int64()
        )
    return pc.if_else(pc.less(sizes, 0), None, sizes)


def _is_size(number: Any) -> bool:
    return number is not None and isfinite(number) and 0 <= number < 2**63 and number % 1 == 0


@dataclass(frozen=True)
class _ManifestNames:
    """Resolver of the names in a manifest."""

    folder: Storage
    root: Storage

    def uri_of(self, name: str) -> str:
        """Return the URI that a name means; raise InputError for one of another store."""
        folder, root = self.folder, self.root
        name = Storage.of(name).uri if name.startswith("file://") else name
        uri = (
            name
            if "://" in name or (folder.is_local and name.startswith("/"))
            else folder.uri_of(name)
        )
        if not folder.is_local and uri_scheme(uri) != uri_scheme(folder.uri):
            raise InputError(
                f"{name}: a manifest on {folder.uri} may only name files of the same store"
            )
        if uri_scheme(uri) != uri_scheme(root.uri):
            raise InputError(
                f"{name}: a manifest names files of one store only, this one began with {root.uri}"
            )
        return uri

    @property
    def prefix(self) -> str | None:
        """Start of URIs that need no check, the scheme of a remote store; None: check all."""
        scheme = uri_scheme(self.root.uri)
        same = self.folder.is_local or uri_scheme(self.folder.uri) == scheme
        return f"{scheme}://" if not self.root.is_local and same else None


def _manifest_batch(batch: Any, names: _ManifestNames) -> Any:
    """Return a batch of a manifest as one of FILES; the store is asked for missing etags, sizes.

    The URI of a row without a name is null.
    """
    paths, nulls = _to_texts(batch["image_uri"]), pa.nulls(len(batch))
    columns = set(batch.schema.names)
    etags = _to_texts(batch["image_etag"] if "image_etag" in columns else nulls, quotes='"')
    sizes = _to_sizes(batch["image_bytes"] if "image_bytes" in columns else nulls)
    if names.prefix and pc.all(pc.starts_with(paths, names.prefix)).as_py():
        uris = paths
    else:
        uris = pa.array(
            [None if path is None else names.uri_of(path) for path in paths.to_pylist()],
            pa.string(),
        )
    if etags.null_count or sizes.null_count:
        rows = zip(uris.to_pylist(), etags.to_pylist(), sizes.to_pylist(), strict=True)
        described = [*_describe_rows(rows, names.root)]
        etags = pa.array([etag for etag, _ in described], pa.string())
        sizes = pa.array([size for _, size in described], pa.int64())
    return pa.RecordBatch.from_arrays([paths, uris, etags, sizes], schema=FILES)


_ManifestRow = tuple[str | None, str | None, int | None]
"""URI, etag and size of a row of a manifest, as far as it names them."""


def _describe_rows(rows: Iterable[_ManifestRow], root: Storage) -> Iterator[tuple[str, int]]:
    """Yield etag and size of the files of a manifest; its store is asked where one is missing.

    Raises:
        OSError: The store answered for none of too many rows on end.
    """
    unanswered = 0
    with reading_pool(CONNECTIONS) as pool:
        for etag, size, error in ahead(pool, partial(_describe_row, root), rows, CONNECTIONS):
            unanswered = unanswered + 1 if error else 0
            if error and unanswered > _MOST_UNANSWERED:
                raise error
            yield etag, size


def _describe_row(root: Storage, row: _ManifestRow) -> tuple[str, int, OSError | None]:
    """Return etag and size of the file of a row, and the error of a store that gives no answer.

    A file that is not there, or that its store does not describe, is left without an etag, unless
    the row has one: reading the file will report the reason, as the error of one image.
    """
    uri, etag, size = row
    if uri is None or (etag is not None and size is not None):
        return etag or "", size or 0, None
    try:
        entry = Storage(uri, root.options).entry()
    except (FileNotFoundError, DanglingLinkError, PermissionError, InputError):
        return etag or "", 0, None
    except OSError as error:
        return etag or "", 0, error
    return etag or entry.etag, entry.size if size is None else size, None
