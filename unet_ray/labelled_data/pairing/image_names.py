"""Names of images in label files, and the files that they refer to.

Tools write the name of an image as it was on their own disk, server or bucket. The names are looked
up among the listed images by rules, the strictest first; notes name the rules that were needed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from unicodedata import normalize
from urllib.parse import parse_qs, unquote, urlsplit

from unet_ray.errors import InputError
from unet_ray.image_sources.names import split_uri
from unet_ray.labelled_data.pairing.affixes import remove_suffix
from unet_ray.storage.file_entry import FileEntry

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Id that Label Studio puts before the name of an uploaded file."""
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class NamedImages:
    """Files that names refer to."""

    entries: tuple[FileEntry | None, ...]
    """File of each name; None if no image has it."""
    rules: Counter[str] = field(default_factory=Counter)
    """Rule → number of names for which it was needed."""


def find_images(
    entries: Sequence[FileEntry], names: Iterable[Sequence[str]], where: str
) -> NamedImages:
    """Find the image of each name.

    Args:
        entries: Images to choose from; nothing else is opened.
        names: Texts about each image, the most specific first: a URI, a path, a name.
        where: Label file, for messages.

    Raises:
        InputError: A name may mean two images, or two names mean the same image.
    """
    index = _Index(entries)
    listed = []
    for texts in names:
        listed.append([split_uri(text)[0] for text in texts])
    exact = [index.find_path(texts) for texts in listed]
    taken = {match.entry.uri for match in exact if match}
    found = list[FileEntry | None]()
    rules = Counter[str]()
    for texts, match in zip(listed, exact, strict=True):
        match = match or _find_by_ends(index, texts, taken, where)
        if match and match.rule:
            rules[match.rule] += 1
        found.append(match.entry if match else None)
    return NamedImages(tuple(found), rules)


def _find_by_ends(
    index: _Index, texts: Sequence[str], taken: Collection[str], where: str
) -> _Match | None:
    """Return the image whose path ends like one of the texts.

    Args:
        index: Images to choose from.
        texts: Texts about the image, the most specific first.
        taken: URIs of images that belong to other names; they do not count.
        where: Label file, for messages.

    Raises:
        InputError: There are several such images.
    """
    doubt: InputError | None = None
    for text in texts:
        candidates, rule = index.find_by_end(text)
        if all(entry.uri in taken for entry in candidates):
            continue
        if len(candidates) == 1:
            return _Match(candidates[0], rule)
        doubt = doubt or InputError(
            f"{where}: {text} may be {candidates[0].path} or {candidates[1].path}; give more of "
            "its path in the label file, or give the folder of one of them as --images"
        )
    if doubt:
        raise doubt
    return None


@dataclass(frozen=True)
class _Match:
    """An image that a name refers to."""

    entry: FileEntry
    rule: str
    """Rule that found it, for notes; empty if none was needed."""


class _Index:
    """Images by their URIs, by their paths, and by the ends of their paths."""

    def __init__(self, entries: Sequence[FileEntry]) -> None:
        self._by_uri = {entry.uri: entry for entry in entries}
        self._with_suffix = _Paths(entries, _nfc)
        self._bare = _Paths(entries, remove_suffix)

    def find_path(self, texts: Sequence[str]) -> _Match | None:
        """Return the image whose path or URI is one of some texts, if there is one."""
        for text in texts:
            if text in self._by_uri:
                return _Match(self._by_uri[text], "")
            for name, rule in _list_readings(text):
                found = self._with_suffix.whole.get(name, [])
                # a path with its suffix has priority over one without
                if not found and not self._with_suffix.find_by_end(name):
                    found = self._bare.whole.get(name, [])
                if len(found) == 1:
                    return _Match(found[0], rule)
        return None

    def find_by_end(self, text: str) -> tuple[list[FileEntry], str]:
        """Return the images whose paths share the longest end with a text, and the rule."""
        names = [*dict.fromkeys(name for name, _ in _list_readings(text))]
        bare = [remove_suffix(name) for name in names]
        attempts = (
            (names, self._with_suffix, "by the end of the path"),
            (map(drop_upload, names), self._with_suffix, "without the id of an upload"),
            (names + bare, self._bare, "by the end of the path without suffix"),
            (map(drop_upload, bare), self._bare, "without the id of an upload and the suffix"),
        )
        for wanted, paths, rule in attempts:
            for name in wanted:
                found = paths.find_by_end(name)
                if found:  # even if there are several: a weaker rule must not decide between them
                    return found, rule
        return [], ""


class _Paths:
    """Images by a key of their paths."""

    def __init__(self, entries: Sequence[FileEntry], key: Callable[[str], str]) -> None:
        self.whole: dict[str, list[FileEntry]] = defaultdict(list)
        """Key of a path → images that have it: without suffix, a.jpg and a.png are both a."""
        self._by_end: dict[str, list[FileEntry]] = defaultdict(list)
        self._deepest = 1
        for entry in entries:
            path = key(entry.path)
            self.whole[path].append(entry)
            ends = _list_ends(path.split("/"))
            self._deepest = max(self._deepest, len(ends))
            for end in ends:
                self._by_end[end].append(entry)

    def find_by_end(self, name: str) -> list[FileEntry]:
        """Return the images whose paths share the longest end with a name.

        An image whose whole path is the end of the name also counts: `images/a.png` may mean
        `a.png`, if --images is the folder `images`, or `old/images/a.png`.
        """
        ends = _list_ends(name.split("/")[-self._deepest :])
        longest = next((self._by_end[end] for end in ends if end in self._by_end), [])
        whole = next((self.whole[end] for end in ends if end in self.whole), [])
        return [*longest, *(entry for entry in whole if entry not in longest)]


def _list_ends(parts: Sequence[str]) -> list[str]:
    """Return the ends of a path, the longest first."""
    return ["/".join(parts[start:]) for start in range(len(parts))]


def drop_upload(name: str) -> str:
    """Return a path without the id that Label Studio puts before the name of an upload."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + _UPLOAD.sub("", base)


def _drop_address(name: str) -> str:
    """Return the path in an address, without scheme, host and query.

    If the query has a key such as `?d=`, its value is the path.
    """
    scheme = _SCHEME.match(name)
    if "?" not in name and not scheme:
        return name
    if scheme and not scheme[0].startswith("http"):  # a bucket, whose keys may contain ? and #
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
    (lambda name: _nfc(unquote(name)), "percent-decoded"),
    (lambda name: _drop_dots(name.replace("\\", "/")), "percent-decoded"),
)


def _list_readings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the paths that a text may mean, each with the last rule that was needed."""
    name, rule = _nfc(text), ""
    for step, what in _STEPS:
        changed = step(name)
        if changed != name:
            name, rule = changed, what
        yield name, rule


def _nfc(text: str) -> str:
    return normalize("NFC", text)
