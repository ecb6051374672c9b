"""A node that has nothing of this one but what a storage brings: a process without variables."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from unet_ray.storage.storage import Storage

_USE = """
import pickle, sys
storage = pickle.load(sys.stdin.buffer)
{code}
"""


def use_elsewhere(storage: Storage, code: str, home: Path, **variables: str) -> str:
    """Use a storage in a process that has nothing of this one's variables.

    Args:
        storage: Storage, which travels as to a worker.
        code: Python that uses `storage`.
        home: Home folder of the process.
        variables: Its variables.

    Returns:
        The last line that it prints, or that of its error.
    """
    environment = {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-c", _USE.format(code=code)],
        input=pickle.dumps(storage),
        env=environment | {"PYTHONPATH": str(REPOSITORY)} | variables,
        capture_output=True,
    )
    return (done.stdout or done.stderr).decode().strip().splitlines()[-1]
