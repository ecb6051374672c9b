"""What the driver's variables and files say of a store reaches every node."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tests.elsewhere import use_elsewhere
from tests.faulty_store import Answer, Request, faulty_store
from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage

_COPY = 'storage.write("copy", storage.read("object")); print(storage.read("copy").decode())'


def refuse_checksums(request: Request) -> Answer | None:
    """Answer as a store that does not know the SDK's newer checksums."""
    names = {name.lower() for name in request.headers}
    knows = not any(
        name.startswith("x-amz-checksum-") or name == "x-amz-sdk-checksum-algorithm"
        for name in names
    )
    return None if knows else Answer.error(400, "InvalidRequest", "x-amz-checksum is not known")


def test_the_choice_of_checksums_travels(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_store(s3_server, answer=refuse_checksums) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        refused = use_elsewhere(Storage.of(bucket), _COPY, tmp_path)
        assert "x-amz-checksum is not known" in refused
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        assert use_elsewhere(Storage.of(bucket), _COPY, tmp_path) == "content"


def test_the_shared_configuration_of_the_driver_travels(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoint, region, checksums and the place of the bucket's name in requests."""
    file = tmp_path / "config"
    with faulty_store(s3_server, answer=refuse_checksums) as store:
        settings = [
            "[default]",
            f"endpoint_url = {store.endpoint}",
            "region = eu-north-1",
            "request_checksum_calculation = when_required",
            "response_checksum_validation = when_required",
            "s3 =",
            "  addressing_style = path",
        ]
        file.write_text("\n".join(settings))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        storage = Storage.of(bucket)
        assert storage.options["config_kwargs"]["s3"] == {"addressing_style": "path"}
        assert storage.options["client_kwargs"] == {"region_name": "eu-north-1"}
        file.unlink()
        assert use_elsewhere(storage, _COPY, tmp_path) == "content"


def test_a_proxy_is_the_drivers_and_so_are_the_exceptions(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:9"
    with faulty_store(s3_server) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint)
        monkeypatch.setenv("NO_PROXY", "example.org")
        through = Storage.of(bucket)
        assert use_elsewhere(through, _COPY, tmp_path) == "content"
        assert proxy.requests > 0
        monkeypatch.setenv("HTTP_PROXY", nowhere)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        past, before = Storage.of(bucket), proxy.requests
        assert use_elsewhere(past, _COPY, tmp_path, HTTP_PROXY=nowhere) == "content"
        assert proxy.requests == before
    assert "127.0.0.1:9" not in str(past.options)


def test_certificates_travel_as_text(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has a certificate of its own making, which no machine trusts by itself."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with faulty_store(s3_server) as store:
        store.socket = context.wrap_socket(store.socket, server_side=True)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint.replace("http:", "https:"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        # else the SDK sends pieces with a checksum at their end, which the proxy does not know
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        storage = Storage.of(bucket)
        certificate.unlink()
        assert use_elsewhere(storage, _COPY, tmp_path) == "content"
        assert "BEGIN" not in repr(storage.options)


def test_certificates_that_are_not_there_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for content, reason in ((None, "cannot be read"), (b"text", "it contains no certificate")):
        file = tmp_path / f"{reason}.pem"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
        with pytest.raises(InputError, match=f"AWS_CA_BUNDLE {file}: {reason}"):
            Storage.of("s3://bucket")
