"""A Parquet manifest: the files that its rows name, and one error for each bad row.

It has the column `image_uri` and may have `image_etag` and `image_bytes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from math import isfinite
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unet_ray.errors import InputError
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.storage.backends.base import DanglingLinkError
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import BATCH, FILES
from unet_ray.storage.parquet_sizes import (
    check_text_lengths,
    drop_long_texts,
    find_risky_texts,
    limit_rows,
)
from unet_ray.storage.roots import Gate, Roots
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import uri_scheme

_BATCH_BYTES = 2**24
"""Size from which fewer rows than BATCH are handed on (bytes)."""
_MOST_UNANSWERED = 100
"""Largest number of successive rows of a manifest for which the store gives no answer; each takes a
quarter of a minute. Fewer may be the fault of single images or a disk; more are the store's."""
_MOST_BYTES = 8192
"""Longest name or etag (bytes); Linux limits paths to 4096, stores limit keys to 1024."""
_UNRESOLVED = "file://"
"""Beginning of URIs that have not become paths."""
_REMOTE = "^[^/]*://"
"""Regular expression for names that are not paths."""


@dataclass(frozen=True)
class Manifest:
    """A manifest. Its names are resolved, and compared with its roots, batch by batch.

    All its files lie on one store, that of the first row with a name.
    """

    source: Storage
    folder: Storage
    """Folder of the manifest, where relative names start."""
    columns: tuple[str, ...]
    named: str
    """Name of the manifest, for messages."""
    roots: Roots

    @staticmethod
    def open(uri: str, named: str, roots: Roots) -> Manifest:
        """Open a manifest.

        Args:
            uri: URI of the manifest.
            named: Name of the manifest, for messages.
            roots: Folders below which its files lie, and the options of their store.

        Raises:
            InputError: It is not a Parquet file, or its columns have other types.
        """
        source = roots.find(uri)
        with _as_manifest_errors(uri), source.open() as file:
            manifest = pq.ParquetFile(file)
            columns = _check_columns(uri, manifest.schema_arrow)
            check_text_lengths(manifest.metadata, "image_uri", _MOST_BYTES)
        folder = roots.find(uri.rpartition("/")[0] or ".")
        return Manifest(
            source=source, folder=folder, columns=tuple(columns), named=named, roots=roots
        )

    def find_root(self) -> Storage:
        """Return a storage that opens the files.

        Raises:
            InputError: The first file that a row names lies outside the roots.
        """
        for batch in self._rows(["image_uri"]):
            names = _to_texts(batch["image_uri"])
            uris = self._resolve(names)
            are_files = _are_files(uris)
            if pc.any(are_files).as_py():
                self._check_below_roots(uris.filter(are_files)[:1])
                name = names.filter(are_files)[0].as_py()
                return self.roots.find(name) if "://" in name else self.folder
        return self.folder

    def files(self, root: Storage) -> Iterator[pa.RecordBatch]:
        """Yield batches of FILES; the URI of a row without a name is null.

        A name that no file can have becomes its own URI: reading it reports the reason.

        Args:
            root: Storage that opens the files.

        Raises:
            InputError: Files lie outside the roots, or on several stores.
        """
        scheme = uri_scheme(root.uri)
        for batch in self._rows(self.columns):
            names = _to_texts(batch["image_uri"])
            uris = self._resolve(names)
            files = uris.filter(_are_files(uris))
            self._check_below_roots(files)
            if scheme == "file":
                is_elsewhere = pc.match_substring_regex(files, _REMOTE)
            else:
                is_elsewhere = pc.invert(pc.starts_with(files, f"{scheme}://"))
            others = files.filter(is_elsewhere)
            if len(others):
                raise InputError(
                    f"{others[0]}: not on the same store as {root.uri}, the first file of this "
                    "manifest; write one manifest for each store"
                )
            yield _make_batch(batch, names, uris, root)

    def read_column(self, column: str) -> dict[str, str] | None:
        """Return the values of one more column as texts, by the URI of the file.

        Rows without a value are left out. NaN counts as no value, since pandas writes it so.

        Args:
            column: Name of the column.

        Returns:
            The values; None if there is no such column.

        Raises:
            InputError: There are two such columns, or the column holds values such as lists.
        """
        with _as_manifest_errors(self.source.uri), self.source.open() as file:
            manifest = pq.ParquetFile(file)
            if column not in manifest.schema_arrow.names:
                return None
            _check_column(
                uri=self.source.uri,
                schema=manifest.schema_arrow,
                name=column,
                is_usable=_is_shown_as_text,
                remedy="string",
            )
            check_text_lengths(manifest.metadata, column, _MOST_BYTES)
        found: dict[str, str] = {}
        for batch in self._rows(list(dict.fromkeys(["image_uri", column]))):
            uris = self._resolve(_to_texts(batch["image_uri"]))
            values = batch[column]
            if pa.types.is_dictionary(values.type) and not _is_text(values.type.value_type):
                values = values.dictionary_decode()
            if pa.types.is_floating(values.type):
                values = pc.if_else(pc.is_nan(values), None, values)
            texts = _to_texts(values)
            for uri, value in zip(uris.to_pylist(), texts.to_pylist(), strict=True):
                if uri is not None and value is not None:
                    found[uri] = value
        return found

    def _rows(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _as_manifest_errors(self.source.uri), self.source.open() as file:
            footer = pq.read_metadata(file)
            manifest = pq.ParquetFile(
                file, metadata=footer, read_dictionary=find_risky_texts(footer)
            )
            num_rows = limit_rows(footer, BATCH)
            batches = manifest.iter_batches(num_rows, columns=list(columns))
            yield from batches if num_rows == BATCH else _join_batches(batches)

    def _resolve(self, names: pa.StringArray) -> pa.StringArray:
        """Return the URIs that names mean; null where there is no name."""
        is_remote = pc.match_substring_regex(names, _REMOTE)
        is_whole = pc.and_(is_remote, pc.invert(pc.starts_with(names, "file:")))
        if pc.all(is_whole).as_py():
            return names
        uris = [None if name is None else self._uri_of(name) for name in names.to_pylist()]
        return pa.array(uris, pa.string())

    def _uri_of(self, name: str) -> str:
        if name.startswith(_UNRESOLVED):
            try:
                return Storage.of(name).uri
            except InputError:  # names another machine, has a NUL, or is not UTF-8
                return name  # reading it reports the reason
        if uri_scheme(name) != "file" or (name.startswith("/") and not self.folder.is_local):
            return name
        if not self.folder.is_local:
            return f"{self.folder.uri}/{name}"
        path = os.path.join(self.folder.uri, name)
        # normalised: with two spellings, one file would be two images
        return os.path.normpath(path).replace("//", "/", 1)

    def _check_below_roots(self, uris: pa.StringArray) -> None:
        """Raise InputError if a URI lies outside; the message counts all such rows."""
        if not pc.any(self.roots.find_outside(uris)).as_py():
            return
        gate = Gate(self.roots)
        for batch in self._rows(["image_uri"]):
            some = self._resolve(_to_texts(batch["image_uri"]))
            some = some.filter(_are_files(some))
            gate.count(some.to_pylist(), self.roots.find_outside(some).to_pylist())
        raise InputError(f"{self.named}: {gate.stopped} images are {gate.reason}")


def _join_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join small batches up to BATCH rows, or fewer rows if their texts are long."""
    held: list[pa.RecordBatch] = []
    num_rows = num_bytes = 0
    for batch in batches:
        if num_rows + len(batch) > BATCH or num_bytes > _BATCH_BYTES:
            yield pa.concat_batches(held)
            held = []
            num_rows = num_bytes = 0
        held.append(batch)
        num_rows += len(batch)
        num_bytes += batch.nbytes
    if held:
        yield pa.concat_batches(held)


def _are_files(uris: pa.StringArray) -> pa.BooleanArray:
    """Return a mask of the URIs that may be files: neither null nor unresolved."""
    return pc.fill_null(pc.invert(pc.starts_with(uris, _UNRESOLVED)), False)


@contextmanager
def _as_manifest_errors(uri: str) -> Iterator[None]:
    """Turn Arrow's errors about a file that is damaged, or not Parquet, into one line."""
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
        _check_column(uri=uri, schema=schema, name=name, is_usable=is_usable, remedy=remedy)
    return found


def _check_column(
    uri: str, schema: pa.Schema, name: str, is_usable: Callable[[pa.DataType], bool], remedy: str
) -> None:
    times = len(schema.get_all_field_indices(name))
    if times > 1:
        raise InputError(f"{uri}: the manifest has {times} columns named {name}; keep one")
    kind = schema.field(name).type
    if not is_usable(_value_type(kind)):
        raise InputError(
            f"{uri}: the column {name} of the manifest has the type {kind}; write it as {remedy}"
        )


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which may be encoded by a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type are texts, or bytes that may be texts."""
    types = pa.types
    are_texts = (types.is_string, types.is_large_string, types.is_string_view)
    are_bytes = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(is_kind(kind) for is_kind in (*are_texts, *are_bytes, types.is_null))


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    are_kinds = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    return any(is_kind(kind) for is_kind in are_kinds)


def _is_shown_as_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type have one plain text form, like texts, numbers and dates."""
    types = pa.types
    are_kinds = (types.is_boolean, types.is_date, types.is_timestamp)
    return _is_text(kind) or _is_number(kind) or any(is_kind(kind) for is_kind in are_kinds)


def _to_texts(column: pa.Array, quotes: str = "") -> pa.StringArray:
    """Return a column as strings without these quotes.

    A value that cannot be a name or an etag becomes null: it is empty, too long or not UTF-8.
    """
    if not _is_text(_value_type(column.type)):  # numbers and times
        return column.cast(pa.string())
    # a string column of a file may hold any bytes; only the cast from bytes looks at them
    encoded = drop_long_texts(column, _MOST_BYTES)
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
    """Return a column as sizes in bytes; null for numbers such as −1, 0.5, NaN and 2^63."""
    try:
        sizes = column.cast(pa.int64())
    except pa.ArrowInvalid:
        found = [number if _is_size(number) else None for number in column.to_pylist()]
        sizes = pa.array(found, pa.int64())
    return pc.if_else(pc.less(sizes, 0), None, sizes)


def _is_size(number: float | Decimal | None) -> bool:
    if number is None or not isfinite(number):
        return False
    return 0 <= number < 2**63 and number % 1 == 0


def _make_batch(
    batch: pa.RecordBatch, names: pa.StringArray, uris: pa.StringArray, root: Storage
) -> pa.RecordBatch:
    """Return a batch of a manifest as one of FILES; the store supplies missing etags and sizes."""
    columns = set(batch.schema.names)
    nulls = pa.nulls(len(batch))
    is_archived = pa.repeat(pa.scalar(False), len(batch))
    etags = _to_texts(batch["image_etag"] if "image_etag" in columns else nulls, quotes='"')
    sizes = _to_sizes(batch["image_bytes"] if "image_bytes" in columns else nulls)
    if etags.null_count or sizes.null_count:
        rows = zip(uris.to_pylist(), etags.to_pylist(), sizes.to_pylist(), strict=True)
        described = list(_describe_rows(rows, root))
        etags = pa.array([file.etag for file in described], pa.string())
        sizes = pa.array([file.size for file in described], pa.int64())
        is_archived = pa.array([file.is_archived for file in described], pa.bool_())
    return pa.RecordBatch.from_arrays([names, uris, etags, sizes, is_archived], schema=FILES)


_ManifestRow = tuple[str | None, str | None, int | None]
"""URI, etag and size in a row of a manifest; None where it does not state them."""


class _Described(NamedTuple):
    """The file of a row, as the row and the store describe it."""

    etag: str
    size: int
    is_archived: bool | None = False
    error: OSError | None = None
    """Error if the store gives no answer."""


def _describe_rows(rows: Iterable[_ManifestRow], root: Storage) -> Iterator[_Described]:
    """Yield descriptions of the files of a manifest; the store is asked for etags and sizes.

    Raises:
        OSError: The store gave no answer for too many successive rows.
    """
    num_unanswered = 0
    with reading_pool(CONNECTIONS) as pool:
        for file in ahead(pool, partial(_describe_row, root), rows, CONNECTIONS):
            num_unanswered = num_unanswered + 1 if file.error else 0
            if file.error and num_unanswered > _MOST_UNANSWERED:
                raise file.error
            yield file


def _describe_row(root: Storage, row: _ManifestRow) -> _Described:
    """Return a description of the file of a row.

    A file that is missing, or that its store does not describe, has no etag unless the row states
    one. Reading the file will report the reason as the error of one image.
    """
    uri, etag, size = row
    if uri is None or (etag is not None and size is not None):
        return _Described(etag or "", size or 0)
    try:
        entry = root.at(uri).entry()
    except (FileNotFoundError, DanglingLinkError, PermissionError, InputError):
        return _Described(etag or "", 0)
    except OSError as error:
        return _Described(etag or "", 0, error=error)
    return _Described(
        etag=etag or entry.etag,
        size=entry.size if size is None else size,
        is_archived=entry.is_archived,
    )
