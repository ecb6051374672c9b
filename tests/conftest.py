"""Fixtures of all tests: a real S3 server, one Ray, a tiny model; and jobs run as a user would."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import settings

from tests.builders import make_tiny_model
from unet_ray.cli.command import ConsoleHandler
from unet_ray.cluster.session import connect
from unet_ray.storage.storage import Storage
from unet_ray.tables import lock

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REPOSITORY = Path(__file__).parent.parent
S3_KEYS = {"AWS_ACCESS_KEY_ID": "unetray", "AWS_SECRET_ACCESS_KEY": "unetray-secret"}


@pytest.fixture(scope="session", autouse=True)
def _quiet_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"


@pytest.fixture(scope="session", autouse=True)
def _log_as_the_command_line_does() -> None:
    """Show what the library logs on stdout, where `capsys` finds it."""
    logger = logging.getLogger("unet_ray")
    logger.setLevel(logging.INFO)
    logger.addHandler(ConsoleHandler())


class S3Server:
    """A real S3 server on disk.

    A port that was free when we asked may be taken before the server listens: a few are tried.

    Args:
        folder: Folder for its objects, its metadata and its log.
        tells_etags: Keep the etags of objects, so that listings have them.
    """

    def __init__(self, folder: Path, tells_etags: bool = True) -> None:
        self._folder, self._tells_etags = folder, tells_etags
        self._juicefs = Path(sys.executable).parent / "juicefs"
        self._meta = f"sqlite3://{folder}/meta.db"
        bucket = ["--storage", "file", "--bucket", folder / "data"]
        subprocess.run(
            [self._juicefs, "format", *bucket, self._meta, "test"], check=True, capture_output=True
        )
        for _ in range(3):
            self._port = free_port()
            if self.start():
                return
        pytest.fail(f"the S3 server did not start: {(folder / 'log').read_text()[-2000:]}")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> bool:
        """Start the server on its port; return whether it listens."""
        environment = os.environ | {
            "MINIO_ROOT_USER": S3_KEYS["AWS_ACCESS_KEY_ID"],
            "MINIO_ROOT_PASSWORD": S3_KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        kept = ["--keep-etag"] * self._tells_etags
        command = [self._juicefs, "gateway", "--multi-buckets", *kept, "--no-banner", self._meta]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"127.0.0.1:{self._port}"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return listens(self._process, self._port)

    def restart(self) -> None:
        """Kill the server, and start it again on the same port after a second."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        time.sleep(1)
        assert self.start()

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(20)


def s3_server_in(folder: Path) -> S3Server:
    """Start an S3 server on disk and set the AWS_* variables."""
    server = S3Server(folder)
    os.environ.update(S3_KEYS, AWS_ENDPOINT_URL=server.endpoint, AWS_DEFAULT_REGION="us-east-1")
    return server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an S3 server for the session, set the AWS_* variables, and return its endpoint."""
    server = s3_server_in(tmp_path_factory.mktemp("s3"))
    yield server.endpoint
    server.stop()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """Start an emulator of Google Cloud Storage for the session; return its endpoint."""
    from tests.emulators import gcs_emulator  # which imports this module

    with gcs_emulator() as endpoint:
        variables = {"STORAGE_EMULATOR_HOST": endpoint, "NO_GCE_CHECK": "true"}
        os.environ.update(variables)  # the second: no machine of Google is asked for credentials
        yield endpoint
        for name in variables:
            del os.environ[name]


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Azurite for the session; return the connection string of its account."""
    from tests.emulators import azure_emulator

    with azure_emulator(str(tmp_path_factory.mktemp("azure"))) as connection:
        os.environ["AZURE_STORAGE_CONNECTION_STRING"] = connection
        yield connection
        del os.environ["AZURE_STORAGE_CONNECTION_STRING"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(150):
        if server.poll() is not None:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


_buckets = 0


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of an empty place: first a local folder, then a bucket of its own."""
    if request.param == "local":
        return str(tmp_path)
    return new_bucket(request)


def new_bucket(request: pytest.FixtureRequest) -> str:
    """Return the URI of a new bucket."""
    global _buckets
    request.getfixturevalue("s3_server")
    _buckets += 1
    uri = f"s3://bucket-{os.getpid()}-{_buckets}"
    Storage.of(uri).filesystem.mkdir(uri)
    return uri


@pytest.fixture(scope="session")
def ray_local(s3_server: str) -> Iterator[None]:
    """Start one Ray for the session; all it knows of S3 comes with storage objects."""
    hidden = {
        name: os.environ.pop(name) for name in [*S3_KEYS, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"]
    }
    connect("local")
    os.environ.update(hidden)
    yield
    ray.shutdown()


@pytest.fixture
def locks_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let locks on S3 settle at once, since no other run competes for the output of the test."""
    monkeypatch.setattr(lock, "_SETTLE_S", 0.0)


@pytest.fixture
def tiny_model(tmp_path: Path) -> str:
    """Return the folder of an untrained two-class model."""
    return make_tiny_model(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1500 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", place], check=True)


def run_job(name: str, *flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a job as a user would, and wait for its end."""
    command = [sys.executable, REPOSITORY / "jobs" / f"{name}.py", *map(str, flags)]
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=clean | environment
    )


def start_job(name: str, *flags: object, **environment: str) -> subprocess.Popen[str]:
    """Start a job as a user would; its stdout has both of its streams."""
    command = [sys.executable, str(REPOSITORY / "jobs" / f"{name}.py"), *map(str, flags)]
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        command,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
