"""`jobs/train.py` as a process that a test follows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

from tests.builders import small_training_flags
from tests.conftest import REPOSITORY
from tests.soak import title


class Job:
    """`jobs/train.py` in a process of its own; its lines are read as they come."""

    def __init__(self, root: str, *flags: object, **environment: str) -> None:
        command = [sys.executable, str(REPOSITORY / "jobs/train.py"), *small_training_flags(root)]
        clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment
        self.process = subprocess.Popen(
            [*command, "--storage", f"{root}/run", *map(str, flags)],
            env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, timeout_s: float = 240) -> None:
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self.output):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, f"no {pattern} in {self.output}"
            time.sleep(0.2)

    def children(self, name: str) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if name in title(child)]

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the job and its children, however the test went."""
        family = (
            psutil.Process(self.process.pid).children(recursive=True)
            if self.process.poll() is None
            else []
        )
        self.process.kill()
        self.process.wait()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
