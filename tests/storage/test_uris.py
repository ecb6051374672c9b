"""Which URIs are opened at all, and what messages show of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unet_ray.errors import InputError
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.storage import Storage
from unet_ray.storage.uris import is_below, redact, uri_scheme, uri_store

FOREIGN = (
    *("http://h/x.png", "https://h/x.png", "ftp://h/x", "github://o:r@main/x", "git://r:x@main/y"),
    *("reference://r", "zip://x.png::/tmp/a.zip", "dir://x", "data://image/png;base64,AA"),
    *("memory://x", "blockcache://x", "simplecache::s3://b/x", "local:///etc/passwd", "nope://x"),
    *("S3://b/x", "://x", "hdfs://n/x", "sftp://h/x", "smb://h/x", "jupyter://h", "tar://x"),
)


@pytest.mark.parametrize("uri", FOREIGN)
def test_other_stores_are_refused_in_one_line_with_those_that_there_are(uri: str) -> None:
    for open_it in (Storage.of, lambda uri: OutputFile.of("--output", f"{uri}/x/y.html")):
        with pytest.raises(InputError) as error:
            open_it(uri)
        assert "is not supported" in str(error.value)
        assert "give a path, s3://, gs://, az://" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("uri", FOREIGN)
def test_a_uri_that_comes_another_way_opens_no_other_store(uri: str) -> None:
    """Workers make storages of the URIs of a plan."""
    for operation in (Storage(uri).read, Storage(uri).entry, Storage(uri).entries):
        with pytest.raises(InputError, match="is not supported"):
            operation()


def test_other_spellings_of_a_store_are_refused_with_the_right_one() -> None:
    for uri, right in (
        ("s3a://b/x", "s3://"),
        ("s3n://b/x", "s3://"),
        ("gcs://b/x", "gs://"),
        ("abfs://c@account.dfs.core.windows.net/x", "az://"),
        ("abfss://c/x", "az://"),
    ):
        with pytest.raises(InputError, match=f": write {right} instead of {uri_scheme(uri)}://"):
            Storage.of(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "gs://", "az:///x"])
def test_a_uri_without_a_bucket_is_one_line(uri: str) -> None:
    """It used to be a local folder `s3:`, as of an empty variable in s3://$BUCKET."""
    with pytest.raises(InputError, match=f"{uri}: names no bucket; write ...?://BUCKET/PATH"):
        Storage.of(uri)
    assert not os.path.exists(uri.rstrip("/"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("~/images", "~ is not expanded here; write the whole path"),
        ("~backup/images", "~ is not expanded here"),
        ("file://data/images", "names another machine; write file:///PATH"),
        ("a\0b", r"'a\\x00b': a path cannot contain a NUL character"),
        ("file:///a%00b", "a path cannot contain a NUL character"),
    ],
)
def test_paths_that_can_be_read_in_two_ways_are_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Storage.of(uri)


def test_each_place_has_one_spelling() -> None:
    for uri, expected in (
        ("/data/../data//a/", "/data/a"),
        ("//data/a", "/data/a"),
        ("file:///data/a%20b#1", "/data/a b#1"),
        ("./~", f"{os.getcwd()}/~"),
        ("s3://b/", "s3://b"),
        ("s3://b/a@2x//", "s3://b/a@2x"),
    ):
        assert Storage.of(uri).uri == expected


def test_a_path_with_the_mark_of_a_scheme_in_it_is_a_path(tmp_path: Path) -> None:
    folder = Storage.of(f"{tmp_path}/http:")
    folder.write("x.png", b"x")
    assert Storage.of(f"{tmp_path}/http://x.png").read() == b"x"
    assert (uri_scheme("a/b://c"), uri_store("a/b://c")) == ("file", "file")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:pw@host/x@2.png", "https://***@2.png"),
        ("https://user:p/w@host/x.png", "https://***@host/x.png"),
        ("https://host/x.png?X-Amz-Signature=pw", "https://host/x.png?***"),
        ("s3://key:p/w@bucket/x", "s3://***@bucket/x"),
        ("s3a://key:pw@bucket/x", "s3a://***@bucket/x"),
        ("s3://bucket/a@2x.png", "s3://bucket/a@2x.png"),
        ("/data/a@2x?b=c.png", "/data/a@2x?b=c.png"),
        ("/" + 300 * "a", "/" + 199 * "a" + "…"),
    ],
)
def test_messages_show_no_credentials(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    if "pw" in uri or "p/w" in uri:
        with pytest.raises(InputError) as error:
            Storage.of(uri)
        assert "pw" not in str(error.value)
        assert "p/w" not in str(error.value)
        with pytest.raises(InputError) as error:
            Storage(uri.replace("s3:", "s3x:")).read()
        assert "pw" not in str(error.value)


def test_a_sibling_does_not_lie_below() -> None:
    assert is_below("/data/a", "/data/a")
    assert is_below("/data/a/b", "/data/a")
    assert is_below("/data", "/")
    assert not is_below("/data/ab", "/data/a")
    assert not is_below("/data", "/data/a")
