"""Names of images in label files, and the files that they mean.

Tools write the name of an image as it was on their own disk, server or bucket. The names are found
among the listed images by rules, the strictest first; which rules were needed is said.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from unicodedata import normalize
from urllib.parse import parse_qs, unquote, urlsplit

from unet_ray.errors import InputError
from unet_ray.image_sources.names import split_page
from unet_ray.labelled_data.pairs import remove_suffix
from unet_ray.storage.storage import FileEntry

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class NamedImages:
    """Files that names mean."""

    entries: tuple[FileEntry | None, ...]
    """File of each name; None where no image has it."""
    rules: Counter[str] = field(default_factory=Counter)
    """Rules that were needed → number of names."""


def find_images(
    entries: Sequence[FileEntry], names: Iterable[Sequence[str]], where: str
) -> NamedImages:
    """Find the image of each name.

    Args:
        entries: Images to choose from; nothing else is opened.
        names: Texts about each image, the most telling first: a URI, a path, a name.
        where: Label file, for messages.

    Raises:
        InputError: A name may mean two images, or two names mean the same.
    """
    index = _Index(entries)
    found, rules = [], Counter[str]()
    for texts in names:
        match, doubt = None, None
        for text in texts:
            match, candidates = index.find(split_page(text)[0])
            if match:
                break
            doubt = doubt or (text, candidates) if len(candidates) > 1 else doubt
        if match is None and doubt:
            first, second = doubt[1][:2]
            raise InputError(
                f"{where}: {doubt[0]} may be {first.path} or {second.path}; give more of its path "
                "in the label file, or give the folder of one of them as --images"
            )
        if match and match.rule:
            rules[match.rule] += 1
        found.append(match.entry if match else None)
    return NamedImages(tuple(found), rules)


@dataclass(frozen=True)
class _Match:
    entry: FileEntry
    rule: str
    """What the rule that found it does, for messages; empty for the name as it is."""


class _Index:
    """Images by their paths, and by the last parts of their paths."""

    def __init__(self, entries: Sequence[FileEntry]) -> None:
        self._by_uri = {entry.uri: entry for entry in entries}
        self._by_path: dict[str, FileEntry] = {}
        self._by_end: dict[bool, dict[str, list[_Candidate]]] = {}
        for has_suffix in (False, True):  # a path with its suffix is meant before one without
            ends: dict[str, list[_Candidate]] = defaultdict(list)
            for entry in entries:
                path = _nfc(entry.path) if has_suffix else remove_suffix(_nfc(entry.path))
                self._by_path[path] = entry
                ends[_base(path)].append((path.split("/")[::-1], entry))
            self._by_end[has_suffix] = ends

    def find(self, text: str) -> tuple[_Match | None, list[FileEntry]]:
        """Return the image that a text means, or else the images that it may mean."""
        if text in self._by_uri:
            return _Match(self._by_uri[text], ""), []
        name, rule = _nfc(text), ""
        for step, what in _STEPS:
            changed = step(name)
            name, rule = changed, what if changed != name else rule
            if name in self._by_path:
                return _Match(self._by_path[name], rule), []
        return self._find_by_end(name)

    def _find_by_end(self, name: str) -> tuple[_Match | None, list[FileEntry]]:
        """Find the image whose path shares the longest end with a name."""
        bare = remove_suffix(name)
        attempts = (
            (name, True, "by the end of the path"),
            (_drop_upload(name), True, "without the id of an upload"),
            (name, False, "by the end of the path without suffix"),
            (bare, False, "by the end of the path without suffix"),
            (_drop_upload(bare), False, "without the id of an upload and the suffix"),
        )
        doubt: list[FileEntry] = []
        for wanted, has_suffix, rule in attempts:
            best = _longest_end(wanted, self._by_end[has_suffix].get(_base(wanted), []))
            if len(best) == 1:
                return _Match(best[0], rule), []
            doubt = doubt or best
        return None, doubt


_Candidate = tuple[list[str], FileEntry]
"""Parts of a path from its end, and the file."""


def _longest_end(name: str, candidates: list[_Candidate]) -> list[FileEntry]:
    """Return the candidates that share the longest end with a name; whole paths come first."""
    parts = name.split("/")[::-1]
    shared = [_count_shared(parts, own) for own, _ in candidates]
    longest = max(shared, default=None)
    return [entry for (_, entry), each in zip(candidates, shared, strict=True) if each == longest]


def _count_shared(parts: list[str], own: list[str]) -> tuple[bool, int]:
    """Return whether a name ends with all of a path, and how many last parts are equal."""
    pairs = zip(parts, own, strict=False)
    count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(own)))
    return count == len(own), count


def _drop_upload(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + _UPLOAD.sub("", base)


def _drop_address(name: str) -> str:
    """Return the path in an address: without scheme, host, query; `?d=` and the like name it."""
    scheme = _SCHEME.match(name)
    if "?" not in name and not scheme:
        return name
    if scheme and not scheme[0].startswith("http"):  # a bucket, whose keys may hold ? and #
        return name[scheme.end() :].partition("/")[2]
    try:
        address = urlsplit(name)
        paths = parse_qs(address.query)
    except ValueError:
        return name
    for key in ("d", "path", "file", "fileuri"):
        if paths.get(key):
            return paths[key][0].lstrip("/")
    return address.path.lstrip("/")


def _drop_dots(name: str) -> str:
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "..", "/")]
    return "/".join(parts)


_STEPS: tuple[tuple[Callable[[str], str], str], ...] = (
    (lambda name: name, ""),
    (lambda name: name.replace("\\", "/"), "backslashes as slashes"),
    (_drop_address, "without host and query"),
    (_drop_dots, "without leading ./ or ../"),
    (unquote, "percent-decoded"),
    (_drop_dots, "percent-decoded"),
)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _nfc(text: str) -> str:
    return normalize("NFC", text)
