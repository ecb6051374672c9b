"""A JSON file of any content is an object or one line, and takes no more memory than allowed."""

from __future__ import annotations

import pytest

from unet_ray.errors import InputError
from unet_ray.storage.json_file import read_json
from unet_ray.storage.storage import Storage


def test_an_object_is_read(root: str) -> None:
    folder = Storage.of(root)
    folder.write("a/file.json", b'{"x": [1, null]}')
    assert read_json(folder, "a/file.json") == {"x": [1, None]}
    with pytest.raises(FileNotFoundError):
        read_json(folder, "nothing.json")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"x": ', "not JSON: Expecting value"),
        (b"\xff\xfe\xff", "not JSON: 'utf-"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"x":' * 100_000, "nested too deep"),
        (b'{"x": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[1]", "not a JSON object but a list"),
        (b"null", "not a JSON object but a NoneType"),
        (b" " * 600_001, "larger than 600000 bytes"),
    ],
    ids=range(9),
)
def test_whatever_else_is_one_line_with_the_name(root: str, content: bytes, fault: str) -> None:
    folder = Storage.of(root)
    folder.write("file.json", content)
    with pytest.raises(InputError, match=fault) as refusal:
        read_json(folder, "file.json", max_bytes=600_000)
    assert str(refusal.value).startswith(f"{folder.uri}/file.json: ")
    assert "\n" not in str(refusal.value)
