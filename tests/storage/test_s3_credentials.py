"""Credentials of S3 that end, are renewed, or that a node finds on its own way."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import S3_KEYS
from tests.elsewhere import use_elsewhere
from tests.faulty_store import EXPIRED, Answer, Request, faulty_store
from unet_ray.errors import CredentialsError, InputError, NoCredentialsError
from unet_ray.image_sources.image_files import find_size, read_file
from unet_ray.storage.storage import Storage

KEY, SECRET = S3_KEYS.values()
LATER = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
_IDENTITY = f"""
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{KEY}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>
<SessionToken>%s</SessionToken><Expiration>%s</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>
"""
"""Answer of STS as its API reference has it."""
_READ = 'print(storage.read("object").decode())'


@pytest.fixture
def keyless(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take the keys out of the variables; return a home without shared files."""
    for name in S3_KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def write_profile(file: Path, name: str, key: str = KEY, secret: str = SECRET) -> None:
    file.write_text(f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


def read_elsewhere(storage: Storage, home: Path, **variables: str) -> str:
    return use_elsewhere(storage, _READ, home, **variables)


# ExpiredToken is recorded from the documentation of S3, the others from those of STS and stores
@pytest.mark.parametrize(
    "answer",
    [
        EXPIRED,
        Answer.error(400, "ExpiredTokenException", "The security token is expired"),
        Answer.error(400, "TokenRefreshRequired", "The provided token must be refreshed."),
        Answer.error(403, "RequestExpired", "Request has expired."),
        Answer.error(403, "AccessDenied", "The security token has expired"),
    ],
)
def test_credentials_that_ended_are_no_error_of_an_object(
    bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """HEAD has no text in which a store could say why: it is asked again."""
    uri = f"{bucket}/object"
    actions: list[Callable[[Storage], object]] = [
        lambda storage: storage.read("object"),
        lambda storage: storage.write("object", b"other"),
        lambda storage: storage.exists("object"),
        lambda storage: storage.entries(),
        lambda storage: read_file(storage, uri),
        lambda storage: find_size(storage, uri),
        lambda storage: storage.open("object").__enter__(),
        lambda storage: storage.arrow_filesystem.open_output_stream(f"{storage.path}/a").close(),
        lambda storage: storage.check_writable(),
    ]
    with faulty_store(s3_server, answer=lambda _: answer) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        for action in actions:
            with pytest.raises(CredentialsError) as caught:
                action(Storage.of(bucket))
            assert re.fullmatch(
                rf"credentials for {bucket} ended at \S+ \S+ UTC \(\w+\); run again with new ones",
                str(caught.value),
            )
            assert caught.value.exit_code == 1


def test_other_refusals_stay_what_they_were(
    bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = Answer.error(403, "AccessDenied", "Access Denied")
    bad = Answer.error(400, "BadDigest", "No")
    for answer, kind in ((denied, PermissionError), (bad, OSError)):
        with faulty_store(s3_server, answer=lambda _, answer=answer: answer) as store:
            monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
            for action in (Storage.entry, Storage.read):
                with pytest.raises(kind):
                    action(Storage.of(f"{bucket}/object"))


def test_a_shared_file_that_was_renewed_is_read_again(
    bucket: str, keyless: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program puts new keys into it while a run goes on."""
    file = keyless / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    write_profile(file, "default", key="ended")

    def answer(request: Request) -> Answer | None:
        return EXPIRED if "ended" in request.headers["Authorization"] else None

    with faulty_store(s3_server, answer=answer) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        storage = Storage.of(bucket)
        with pytest.raises(CredentialsError):
            storage.read("object")
        write_profile(file, "default")
        assert storage.read("object") == b"content"


def test_a_web_identity_is_renewed_and_goes_with_the_storage(
    bucket: str, keyless: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STS gives keys that end at once, so that each request needs new ones."""
    asked: list[bytes] = []

    def answer(request: Request) -> Answer | None:
        if b"AssumeRoleWithWebIdentity" in request.body:
            asked.append(request.body)
            end = LATER if len(asked) > 1 else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            return Answer(200, (_IDENTITY % ("", end)).encode())
        return None

    token = keyless / "token"
    token.write_text("who-i-am")
    with faulty_store(s3_server, answer=answer) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/night")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        storage = Storage.of(bucket)
        monkeypatch.delenv("AWS_ROLE_ARN")
        monkeypatch.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
        assert "who-i-am" not in str(storage.options)
        sts = {"AWS_ENDPOINT_URL_STS": store.endpoint}
        assert read_elsewhere(storage, keyless, **sts) == "content"
        assert len(asked) == 2
        assert b"who-i-am" in asked[0]
        assert b"role%2Fnight" in asked[0]


def test_a_profile_goes_by_its_name_and_a_nodes_own_way_comes_first(
    bucket: str, keyless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = keyless / "driver"
    write_profile(driver, "night")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(driver))
    monkeypatch.setenv("AWS_PROFILE", "night")
    storage = Storage.of(bucket)
    assert storage.read("object") == b"content"
    assert SECRET not in str(storage.options)
    node = keyless / "node"
    node.mkdir()
    assert read_elsewhere(storage, node) == "content"
    own = read_elsewhere(storage, node, AWS_ACCESS_KEY_ID="own", AWS_SECRET_ACCESS_KEY="other")
    assert own.startswith("PermissionError")
    driver.unlink()  # as on a node without that file, which goes on with what it has
    lacking = read_elsewhere(storage, node)
    assert f"credentials for {bucket} are missing on" in lacking
    assert "give every node some" in lacking
    (node / ".aws").mkdir()
    write_profile(node / ".aws/credentials", "default")
    assert read_elsewhere(storage, node) == "content"


def test_keys_in_variables_travel_and_win(bucket: str, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    write_profile(tmp_path / ".aws/credentials", "default", key="wrong")
    storage = Storage.of(bucket)
    assert read_elsewhere(storage, tmp_path, AWS_PROFILE="default") == "content"
    assert read_elsewhere(storage, tmp_path, AWS_ACCESS_KEY_ID="wrong") == "content"


def test_a_machine_without_credentials_says_so(bucket: str, keyless: Path) -> None:
    for action in (Storage.entries, lambda storage: read_file(storage, f"{bucket}/object")):
        with pytest.raises(NoCredentialsError, match="are missing on .* give every node") as caught:
            action(Storage.of(bucket))
        assert caught.value.exit_code == 2


def test_a_profile_that_is_not_there_is_one_line(
    keyless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(InputError, match=r"profile \(nowhere\) could not be found; check AWS_PR"):
        Storage.of("s3://bucket")
