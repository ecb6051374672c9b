"""A JSON that is read piece by piece gives what `json.loads` gives."""

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unet_ray.labelled_data.annotations import LabelError
from unet_ray.labelled_data.formats.parts import json_stream
from unet_ray.labelled_data.formats.parts.json_stream import read_elements

NUMBERS = st.integers() | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.text(), VALUES, max_size=5) | st.lists(VALUES, max_size=5)


def read_whole(content: bytes) -> Any:
    """Put the elements of a JSON together again."""
    elements = [*read_elements(BytesIO(content))]
    if content.lstrip(b"\xef\xbb\xbf \n\t\r")[:1] == b"[":
        assert all(each.key == "" for each in elements)
        return [] if elements[0].index is None else [each.value for each in elements]
    whole: dict[str, Any] = {}
    for each in elements:
        if each.index is None:
            whole[each.key] = each.value
        else:
            whole.setdefault(each.key, []).append(each.value)
            assert len(whole[each.key]) == each.index + 1
    return whole


@given(DOCUMENTS, st.sampled_from([1, 2, 3, 7, 16, 64]), st.sampled_from([None, 1]), st.booleans())
@example(
    {"a": [2.5, 2e-5, -1, 1e300], "\ud83d\ude00": ["\\u00e9\n", "\ud83d\ude00"]}, 1, None, True
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_of_any_size_give_what_json_gives(
    monkeypatch: pytest.MonkeyPatch, document: Any, piece: int, indent: int | None, is_ascii: bool
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    text = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    for mark in (b"", b"\xef\xbb\xbf"):
        content = mark + text.encode("utf-8", "surrogatepass" if is_ascii else "replace")
        assert read_whole(content) == json.loads(content)


@given(DOCUMENTS.filter(bool), st.data(), st.sampled_from([1, 5, 2**20]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_json_that_is_cut_off_is_refused_with_its_place(
    monkeypatch: pytest.MonkeyPatch, document: Any, data: st.DataObject, piece: int
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    content = json.dumps(document, indent=1).encode()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(LabelError, match=r"^line \d+, column \d+: |it begins with neither"):
        [*read_elements(BytesIO(cut))]


@given(DOCUMENTS, st.data())
def test_a_changed_character_never_raises_anything_else(document: Any, data: st.DataObject) -> None:
    content = bytearray(json.dumps(document, indent=1).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from(b'0-.eE[]{},:"\\ \n\x00\xff'))
    try:
        found = read_whole(bytes(content))
    except (LabelError, AssertionError):  # or a key that is there twice
        return
    assert repr(found) == repr(json.loads(bytes(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it begins with neither"),
        (b"17", "it begins with neither"),
        (b"<xml>", "it begins with neither"),
        (b'{"a": 1} x', "line 1, column 10: there is text after the end of the JSON"),
        (b'{"a": 1,}', "line 1, column 9: "),
        (b'{"a"\n: 1\n "b": 2}', "line 3, column 2: , is missing"),
        (b'{"a": [1,\n2\n3]}', "line 3, column 1: , is missing"),
        (b'{"a": [1,\n nul]}', "line 2, column 2: Expecting value"),
        (b"{1: 2}", "line 1, column 3: a key is not text"),
        (b'{"a" 1}', "line 1, column 6: : is missing"),
        (b'{"a": [1', "line 1, column 9: it ends too early"),
        (b'{"a": "abc', "line 1, column 7: Unterminated string"),
        (b'{"a": "\x01"}', "line 1, column 8: Invalid control character"),
        (b'{"a": ["\xc3\xa9\xc3\xa9", \xff]}', "line 1, column 14: it is not UTF-8 text"),
        (b'{"a": "\xc3', "it is not UTF-8 text: unexpected end of data; save it as UTF-8"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "line 1, column 7: Exceeds the limit .4300 digits"),
        (b'{"a": ' + b"[" * 100_000, "line 1, column 8: it is nested too deeply"),
        (b'{"a": ' + b'{"a":' * 100_000, "line 1, column 7: it is nested too deeply"),
    ],
)
@pytest.mark.parametrize("piece", [1000, 2**20])
def test_errors_name_line_and_column(
    monkeypatch: pytest.MonkeyPatch, content: bytes, message: str, piece: int
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    with pytest.raises(LabelError, match=message) as error:
        [*read_elements(BytesIO(content))]
    assert "\n" not in str(error.value)


def test_lines_and_columns_count_from_the_beginning_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", 8)
    text = json.dumps({"a": [{"b": n} for n in range(100)]}, indent=1)
    bad = text[:-60] + "?" + text[-60:]
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(bad)
    with pytest.raises(LabelError) as error:
        [*read_elements(BytesIO(bad.encode()))]
    assert str(error.value).startswith(
        f"line {expected.value.lineno}, column {expected.value.colno}: "
    )


def test_an_element_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", 64)
    monkeypatch.setattr(json_stream, "_MOST_CHARACTERS", 2000)
    fitting = json.dumps({"a": [[1] * 200] * 50}).encode()
    assert len([*read_elements(BytesIO(fitting))]) == 50
    for large in ({"a": [[1] * 4000]}, {"a": "x" * 4000}):
        with pytest.raises(LabelError, match="a value has more than 2000 characters"):
            [*read_elements(BytesIO(json.dumps(large).encode()))]


def test_an_empty_list_differs_from_a_key_that_is_missing() -> None:
    elements = [*read_elements(BytesIO(b'{"a": [], "b": {}, "c": [[]]}'))]
    assert [(each.where, each.index, each.value) for each in elements] == [
        ("a", None, []),
        ("b", None, {}),
        ("c[0]", 0, []),
    ]
