"""Exceptions as one line."""

from __future__ import annotations

import errno
import pickle

import pytest

from unet_ray.errors import (
    CredentialsError,
    ImageError,
    NoCredentialsError,
    is_disk_full,
    one_line,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/b"), "/a/b"),
        (OSError(errno.ENOSPC, "No space left on device"), "a disk"),
        (
            RuntimeError(
                "Failed to apply UDF transform\nTraceback\n"
                "OSError: [Errno 28] No space left on device\n"
                "OSError: [Errno 28] No space left on device: '/a/b'\n"
            ),
            "/a/b",
        ),
    ],
)
def test_a_full_disk_is_one_line_with_the_place_and_the_remedy(error: Exception, line: str) -> None:
    assert is_disk_full(error)
    assert one_line(error) == f"no space left on {line}: free some and run again"


def test_other_errors_begin_with_their_type() -> None:
    assert not is_disk_full(OSError(errno.EIO, "Input/output error", "/a"))
    assert one_line(ValueError("two\n  lines")) == "ValueError: two lines"


def test_what_others_wrote_becomes_one_line_without_control_characters() -> None:
    said = "bad tag\n\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \u202egnp"
    shown = r"bad tag red \x1b]0;title\x07 \x9b2J \u202egnp"
    assert one_line(ValueError(said)) == f"ValueError: {shown}"
    error = ImageError("unreadable", said.replace("\x1b[31m", "").replace("\x1b[0m", ""))
    assert (error.message, str(error)) == (shown, f"unreadable: {shown}")
    assert pickle.loads(pickle.dumps(error)).message == shown


def test_credentials_that_ended_are_found_in_what_ray_says_of_them() -> None:
    """Ray adds its own text to that of the error, and may keep nothing but text."""
    ended = CredentialsError.ended("s3://bucket", "Expired (Token)")
    none = NoCredentialsError.of("s3://bucket", "no (such) profile")
    for error, code in ((ended, 1), (none, 2)):
        assert CredentialsError.find(error) is error
        found = CredentialsError.find(
            f"Traceback\nunet_ray.CredentialsError: {error}\nFailed (1/1)"
        )
        assert (str(found), type(found), found and found.exit_code) == (
            str(error),
            type(error),
            code,
        )
        assert one_line(RuntimeError(f"UDF: {error}\nmore")) == str(error)
        assert "; 12 images done; " in str(error.after(12))
        assert type(pickle.loads(pickle.dumps(error))) is type(error)
    assert CredentialsError.find(OSError("credentials")) is None
