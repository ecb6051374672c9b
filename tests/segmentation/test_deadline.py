"""A process that makes no progress ends itself; one that makes some does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = "import sys, time; from unet_ray.segmentation.deadline import Deadline; d = Deadline(1.0)\n"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("with d.working(): time.sleep(60)", 1),
        # C code that keeps Python's lock
        ("import re\nwith d.working(): re.match('(a+)+b', 'a' * 60)", 1),
        ("with d.working():\n for _ in range(6): time.sleep(0.4); d.postpone()", 0),
        ("with d.working(): pass\ntime.sleep(2)", 0),
        (
            "import threading\n"
            "def work():\n with d.working(): time.sleep(60)\n"
            "threading.Thread(target=work, daemon=True).start()\n"
            "with d.working(): pass\n"
            "time.sleep(60)",
            1,
        ),
    ],
)
def test_a_process_without_progress_ends(work: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + work], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == code, done.stderr
    assert ("Timeout" in done.stderr) == (code == 1)
