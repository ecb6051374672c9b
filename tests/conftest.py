"""A real S3 server, one Ray, a tiny model: what tests share."""

from __future__ import annotations

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
import torch
from hypothesis import settings

from unet_ray.cluster.session import connect
from unet_ray.flags import ClassSpec
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

REPOSITORY = Path(__file__).parent.parent
S3_KEYS = {"AWS_ACCESS_KEY_ID": "unetray", "AWS_SECRET_ACCESS_KEY": "unetray-secret"}


@pytest.fixture(scope="session", autouse=True)
def _quiet_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"


class S3Server:
    """A real S3 server on disk.

    The port is free when we ask for it; another process may take it before the server does, so a few are retry.

    Args:
        folder — where it keeps its objects.
        tells_etags — whether it has etags to tell.
    """

    def __init__(self, folder: Path, tells_etags: bool = True) -> None:
        self._folder, self._tells_etags = folder, tells_etags
        self._juicefs = Path(sys.executable).parent / "juicefs"
        self._meta = f"sqlite3://{folder}/meta.db"
        subprocess.run(
            [
                self._juicefs,
                "format",
                "--storage",
                "file",
                "--bucket",
                folder / "data",
                self._meta,
                "test",
            ],
            check=True,
            capture_output=True,
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
        """Start it on its port; return whether it listens."""
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
        return _listens(self._process, self._port)

    def restart(self) -> None:
        """Kill it, and start it again on the same port after a second."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(server: subprocess.Popen[bytes], port: int) -> bool:
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
    """Return the URI of an empty place: a local folder, then a bucket of its own."""
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
    """Start one Ray for the session; it knows nothing of S3 but what storage objects carry."""
    hidden = {
        name: os.environ.pop(name) for name in [*S3_KEYS, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"]
    }
    connect("local")
    os.environ.update(hidden)
    yield
    ray.shutdown()


@pytest.fixture
def tiny_model(tmp_path: Path) -> str:
    """Return the folder of an untrained two-class model."""
    return make_tiny_model(tmp_path)


def make_tiny_model(place: Path) -> str:
    """Write an untrained two-class model below a folder and return where it is."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=3, num_classes=2, base_channels=4, depth=2)
    classes = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    preprocessing = Preprocessing("uint8", (128.0,) * 3, (64.0,) * 3)
    folder = place / "tiny-model"
    save_model(
        Model(config, state_bytes(UNet(config)), classes, preprocessing, (0.5, 0.5)),
        Storage.of(str(folder)),
    )
    return str(folder)


def run_job(name: str, *flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a job as a user would."""
    command = [sys.executable, REPOSITORY / "jobs" / f"{name}.py", *map(str, flags)]
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=clean | environment
    )
