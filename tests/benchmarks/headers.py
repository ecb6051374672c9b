"""CPU time and memory of planning a run over TIFF files, whose headers say what they hold.

    python -m tests.benchmarks.headers --output FILE.json [--files 1000000] [--pages 1]

The files are hard links to twenty small ones, so that they take no space; the output is new, so
that every header is read. The benchmark measures the whole command `jobs/segment.py --dry-run` with
the children that it starts; the count that it prints is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from tests.builders import make_tiny_model

REPOSITORY = Path(__file__).parent.parent.parent
_ORIGINALS = 20
"""Number of different files. ext4 allows 65,000 links to one."""
_FOLDER = 5000
"""Number of files of a folder."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=1, help="pages of each file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _link_files(Path(folder), flags.files, flags.pages)
        found = _measure(Path(folder), flags.files, flags.pages)
    print(
        f"{flags.files} files of {flags.pages} pages: {found['cpu_s']:.1f} s of CPU, "
        f"{found['cpu_ms_per_file']:.3f} ms per file, {found['peak_gib']:.2f} GiB"
    )
    Path(flags.output).write_text(json.dumps(found, indent=2))


def _link_files(folder: Path, files: int, pages: int) -> None:
    """Write the archive below `folder`."""
    rng = np.random.default_rng(0)
    for index in range(_ORIGINALS):
        with tifffile.TiffWriter(folder / f"{index}.tif") as writer:
            for _ in range(pages):
                samples = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                writer.write(samples, photometric="rgb", metadata=None)
    for index in range(files):
        place = folder / f"archive/{index // _FOLDER}"
        if index % _FOLDER == 0:
            place.mkdir(parents=True)
        os.link(folder / f"{index % _ORIGINALS}.tif", place / f"{index}.tif")


def _measure(folder: Path, files: int, pages: int) -> dict[str, float]:
    """Plan the archive; return CPU time and the memory of the largest process."""
    command = [sys.executable, REPOSITORY / "jobs/segment.py", "--dry-run"]
    command += ["--model", make_tiny_model(folder), "--images", folder / "archive"]
    done = subprocess.run(
        [*command, "--output", folder / "tables"], capture_output=True, text=True, cwd=REPOSITORY
    )
    if f"{files * pages} images listed: {files * pages} new" not in done.stdout:
        sys.exit(f"not what was planned:\n{done.stdout}{done.stderr}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    return {
        "files": files,
        "pages": pages,
        "cpu_s": cpu_s,
        "cpu_ms_per_file": 1000 * cpu_s / files,
        "peak_gib": used.ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
