"""Memory and CPU time of a process and its children, by part, measured from outside."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import psutil

_INTERVAL_S = 0.5
_SHARED_EVERY = 8
"""Number of looks of which one adds up the memory of all processes.

It costs the kernel a walk over every page table.
"""


class Watcher:
    """Looks at a process tree twice a second, until it is stopped or the process has gone.

    Args:
        pid: Process id of the tree's root.
        parts: Words of the command lines of the processes of each part, by its name; all other
            processes are `other`.
    """

    def __init__(self, pid: int, parts: dict[str, str]) -> None:
        self._root, self._parts, self._stop = psutil.Process(pid), parts, threading.Event()
        self.largest_gib: dict[str, float] = {}
        """Largest resident memory of one process of each part."""
        self.together_gib = 0.0
        """Largest proportional memory of all processes: what they share counts once."""
        self._cpu_s = [(time.time(), Counter[str]())]
        self._used: dict[int, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stop.set()
        self._thread.join()

    def cpu_s(self, since: float, until: float) -> dict[str, float]:
        """Return the CPU seconds of each part between two times (s since the epoch)."""
        times = [at for at, _ in self._cpu_s]
        used = {
            part: np.interp([since, until], times, [u[part] for _, u in self._cpu_s])
            for part in self._cpu_s[-1][1]
        }
        return {part: float(after - before) for part, (before, after) in used.items()}

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(_INTERVAL_S):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            adds_up, looks = looks % _SHARED_EVERY == 0, looks + 1
            used, together = Counter(self._cpu_s[-1][1]), 0.0
            for process in family:
                try:
                    title, resident, cpu = (
                        " ".join(process.cmdline()),
                        process.memory_info().rss,
                        process.cpu_times(),
                    )
                    together += process.memory_full_info().pss / 2**30 if adds_up else 0.0
                except psutil.Error:
                    continue
                part = next(
                    (part for part, words in self._parts.items() if words in title), "other"
                )
                self.largest_gib[part] = max(self.largest_gib.get(part, 0.0), resident / 2**30)
                seconds = cpu.user + cpu.system
                used[part] += seconds - self._used.get(process.pid, 0.0)
                self._used[process.pid] = seconds
            self.together_gib = max(self.together_gib, together)
            self._cpu_s.append((time.time(), used))
