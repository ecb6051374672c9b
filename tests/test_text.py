"""Text that others wrote, as it is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.text import escape_controls, has_controls, is_utf8

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSEEN = "\u180e\u200b\u2060\u2064\u206a\u206f\ufeff\ufff9\U000e0001\U000e0041"
JOINERS = "\u200c\u200d"
ANY_TEXT = st.text(
    st.characters(codec=None) | st.sampled_from(BIDIRECTIONAL + UNSEEN + JOINERS + "\x1b\x9b\udcff")
)


def is_control(character: str) -> bool:
    """Tell by Unicode's own categories and names: controls, surrogates, separators, tags."""
    is_named = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    code = ord(character)
    is_unseen = 0x2060 <= code <= 0x206F or 0xFFF9 <= code <= 0xFFFB or 0xE0000 <= code <= 0xE007F
    return is_named or is_unseen or character in BIDIRECTIONAL + UNSEEN


@given(ANY_TEXT)
def test_no_control_character_is_left_and_all_others_stay(text: str) -> None:
    shown = escape_controls(text)
    assert not any(map(is_control, shown))
    assert has_controls(text) == any(map(is_control, text))
    assert (shown == text) == (not has_controls(text))
    assert escape_controls(shown) == shown
    pieces = [
        character if not is_control(character) else escape_controls(character) for character in text
    ]
    assert shown == "".join(pieces)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07.png", r"\x1b]0;title\x07.png"),
        ("a\nb\tc\x9b", r"a\nb\tc\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u200e\u200f\u061cb\ufeff", r"a\u200e\u200f\u061cb\ufeff"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("می\u200cخواهم 👩\u200d🚀", "می\u200cخواهم 👩\u200d🚀"),
        ("b\udcff.png", r"b\xff.png"),
        ("\ud800", r"\ud800"),
        ("日本 é שלום 'a' \\n", "日本 é שלום 'a' \\n"),
    ],
)
def test_control_characters_are_written_as_in_a_string(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_some_control_characters_may_stay() -> None:
    assert escape_controls("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_text_that_tables_can_hold_is_told_from_bytes_of_a_name() -> None:
    assert is_utf8("日本\x00\u202e")
    assert not is_utf8("b\udcff.png")
