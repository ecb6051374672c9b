import json
from collections.abc import Callable
from typing import Any

import pytest

from unet_ray.errors import InputError
from unet_ray.network.json_object import JsonObject

ASK: dict[str, Callable[[JsonObject], Any]] = {
    kind: lambda found, kind=kind: getattr(found, kind)("a")
    for kind in ("text", "integer", "integers", "numbers", "object", "objects")
}


def test_values_are_taken_as_they_are() -> None:
    found = JsonObject.parse(
        b'{"a": {"text": "x y", "whole": -3, "list": [1, 2.5], "none": null, "parts": [{"b": 1}]}}'
    ).object("a")
    assert found.text("text") == "x y"
    assert found.integer("whole") == -3
    assert found.numbers("list") == (1, 2.5)
    assert [type(number) for number in found.numbers("list")] == [int, float]
    assert found.get("none") is None
    assert [part.integer("b") for part in found.objects("parts")] == [1]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("text", 3, "a 3 is not a text of 1 to 256 printable characters"),
        ("text", "", "a '' is not a text"),
        ("text", " ", "a ' ' is not a text"),
        ("text", "x" * 257, "is not a text of 1 to 256"),
        ("text", "a\x1b[31m", r"a 'a\x1b[31m' is not a text"),
        ("text", "a\nb", r"a 'a\nb' is not a text"),
        ("text", "\ud800", r"a '\ud800' is not a text"),
        ("integer", 3.0, "a 3.0 is not a whole number"),
        ("integer", True, "a True is not a whole number"),
        ("integer", "3", "a '3' is not a whole number"),
        ("integer", 2**63, "a 9223372036854775808 is not a whole number"),
        ("integers", 3, "a 3 is not a list"),
        ("integers", [1, 2.5], "a[1] 2.5 is not a whole number"),
        ("numbers", [0.5, "0.5"], "a[1] '0.5' is not a finite number"),
        ("numbers", [False], "a[0] False is not a finite number"),
        ("numbers", [float("nan")], "a[0] nan is not a finite number"),
        ("numbers", [float("-inf")], "a[0] -inf is not a finite number"),
        ("numbers", [10**400], "is not a finite number"),
        ("object", [], "a [] is not an object"),
        ("objects", [{}, 1], "a[1] 1 is not an object"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(
    kind: str, value: Any, message: str
) -> None:
    found = JsonObject.parse(json.dumps({"a": value}).encode())
    with pytest.raises(InputError) as error:
        ASK[kind](found)
    assert message in str(error.value)
    assert len(str(error.value)) < 200
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", ASK)
def test_a_missing_value_is_named(kind: str) -> None:
    with pytest.raises(InputError, match="^a is missing$"):
        ASK[kind](JsonObject.parse(b"{}"))


def test_paths_lead_through_objects_and_lists() -> None:
    found = JsonObject.parse(b'{"a": {"b": [{"c": {"\\u001b": "3"}}]}}')
    with pytest.raises(InputError) as error:
        found.object("a").objects("b")[0].object("c").integer("\x1b")
    assert str(error.value) == r"a.b[0].c.'\x1b' '3' is not a whole number"


def test_a_long_key_is_shortened_in_messages() -> None:
    with pytest.raises(InputError, match=r"^'a+\.\.\.a+' is missing$") as error:
        JsonObject.parse(b"{}").get("a" * 10**6)
    assert len(str(error.value)) < 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b"[1]", r"^\[1\] is not an object$"),
        (b"1" * 5000, "not JSON"),
        (b"[" * 100_000, "more than 64 levels deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "more than 64 levels deep"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 levels deep"),
    ],
)
def test_what_is_no_json_object_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        JsonObject.parse(data)
    assert "\n" not in str(error.value)
