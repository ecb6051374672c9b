"""Errors, and the exit codes of commands that end with them.

UnetRayError            1   anything that can be named but not classified
├── InputError          2   flags or input that cannot work
│   └── ListingError        a folder could not be listed to its end
├── CredentialsError    1   credentials of a store ended
│   └── NoCredentialsError 2    a machine has none
├── TooManyFailuresError 3  finished, but more images failed than allowed
└── OutputHeldError     4   another run holds the output
ImageError                  one image failed: it becomes a row of the ledger, never an exit code
"""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime
from typing import cast

from unet_ray.text import escape_controls


class UnetRayError(Exception):
    """An error whose message is one line that a user can act on."""

    exit_code = 1


class InputError(UnetRayError):
    """Flags or input that cannot work: the message names the value, the limit and the remedy."""

    exit_code = 2


class ListingError(InputError):
    """A folder could not be listed to its end, so that absent files may well be there."""


_NO_CREDENTIALS = re.compile(r"credentials for \S+ (ended|are missing) [^()\n]*\([^()\n]*\)")
"""Beginning of the text of every CredentialsError."""
_RENEW = "run again with new ones"
_PROVIDE = "give every node some, or run with keys in AWS_* variables"


class CredentialsError(UnetRayError):
    """Credentials of a store ended, or a machine has none: no file of the store can be read.

    It is neither an OSError nor the error of one image: it stops the command.
    """

    @staticmethod
    def ended(place: str, reason: str) -> CredentialsError:
        """Return the error for credentials that were valid until now.

        Args:
            place: URI of the store.
            reason: Words of the store or the SDK.
        """
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        what = f"credentials for {place} ended at {now} ({_plain(reason)})"
        return CredentialsError(f"{what}; {_RENEW}")

    @staticmethod
    def find(error: BaseException | str) -> CredentialsError | None:
        """Return the credentials error that an exception is, or whose text it holds as Ray's do."""
        if type(error) in (CredentialsError, NoCredentialsError):
            return cast(CredentialsError, error)
        found = _NO_CREDENTIALS.search(str(error))
        if found is None:
            return None
        if found[1] == "ended":
            return CredentialsError(f"{found[0]}; {_RENEW}")
        return NoCredentialsError(f"{found[0]}; {_PROVIDE}")

    def after(self, images: int) -> CredentialsError:
        """Return the error of a run that has done some images."""
        what, _, remedy = str(self).rpartition("; ")
        return type(self)(f"{what}; {images} images done; {remedy}")


class NoCredentialsError(CredentialsError):
    """A machine has no credentials of a store."""

    exit_code = 2

    @staticmethod
    def of(place: str, reason: str) -> NoCredentialsError:
        """Return the error for this machine.

        Args:
            place: URI of the store.
            reason: Words of the SDK.
        """
        what = f"credentials for {place} are missing on {socket.gethostname()} ({_plain(reason)})"
        return NoCredentialsError(f"{what}; {_PROVIDE}")


def _plain(text: str) -> str:
    """Return a text in one line and without brackets, since `_NO_CREDENTIALS` ends at a bracket."""
    without_brackets = text.translate({ord("("): None, ord(")"): None})
    return escape_controls(" ".join(without_brackets.split()))


class TooManyFailuresError(UnetRayError):
    """The run finished, but more images failed than `--max-error-rate` allows."""

    exit_code = 3


class OutputHeldError(UnetRayError):
    """Another run holds the output's lock."""

    exit_code = 4


class ImageError(Exception):
    """One image cannot be processed.

    Args:
        error_type: Word of the ledger's `error_type`: `unreadable`, `too_large`, `unsupported`,
            `kills_worker`, `network`, `missing`, `changed`, `denied`, `archived`, `out_of_memory`,
            `internal`.
        message: Text, which is made one line without control characters.
    """

    def __init__(self, error_type: str, message: str) -> None:
        message = escape_controls(" ".join(message.split()))
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message

    def __str__(self) -> str:
        return f"{self.error_type}: {self.message}"


_NO_SPACE = re.compile(r"(?:No space left on device|Disk quota exceeded)(?:: '([^'\n]*)')?")
"""Text of the errors ENOSPC and EDQUOT, and the path that they name."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an exception says in its text that a disk is full.

    Of the cause of an exception, Ray keeps only the text.
    """
    return _NO_SPACE.search(str(error)) is not None


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception as one line of at most `limit` characters, its type first.

    For a full disk, the line only says which disk it is and what to do. Control characters are
    escaped.
    """
    places = _NO_SPACE.findall(str(error))
    if places:
        place = next(filter(None, places), "a disk")
        return escape_controls(f"no space left on {place}: free some and run again")
    lost = CredentialsError.find(error)
    if lost:
        return str(lost)
    error = getattr(error, "cause", None) or error  # the error that Ray wraps
    text = re.sub(r"\s+", " ", str(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours
    text = escape_controls(text.strip())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"
