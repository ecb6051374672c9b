"""Faults that tests put into the file system and into stores."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

_DAC_OVERRIDE, _DAC_READ_SEARCH, _PR_CAPBSET_DROP = 1, 2, 24


@contextmanager
def failing_scandir(at: int, code: int) -> Iterator[list[str]]:
    """Make the listing of one local folder fail, and yield the folders that were listed.

    Args:
        at: Number of the listing that fails, from 1; 0: none does.
        code: Error number of the failure.
    """
    scandir, listed = os.scandir, list[str]()

    def fail(path: Any = ".") -> Any:
        listed.append(str(path))
        if len(listed) == at:
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        yield listed


def is_listing(method: str, path: str) -> bool:
    """Tell whether a request to an S3 store lists keys."""
    return method == "GET" and "list-type" in parse_qs(urlsplit(path).query)


def without_capabilities() -> None:
    """Let the child process that is about to start be denied what other users are denied."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
