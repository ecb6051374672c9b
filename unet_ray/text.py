r"""Text from elsewhere, such as names of files and messages of libraries, made safe to show.

A terminal obeys some characters instead of showing them: `\x1b]0;…\x07` sets its title, a newline
begins a line that looks like one of ours, and a bidirectional override shows `gnp.exe` for
`exe.png`. Others are invisible, so that two names look alike; of these, only the joiners of letters
that some scripts need are kept. Tables hold names as they are: only what is shown is escaped.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns bidirectional text around
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen
    "\ud800-\udfff"  # surrogates, among them the bytes of a file name that are not UTF-8
    "]"
)


def has_controls(text: str) -> bool:
    """Tell whether a text holds a character that a terminal would obey or could not show."""
    return _CONTROLS.search(text) is not None


def escape_controls(text: str, keep: str = "") -> str:
    r"""Escape control characters as Python does in strings, and bytes that are not UTF-8 as `\xff`.

    Args:
        text: Any text.
        keep: Characters that stay as they are.

    Returns:
        The text without control characters; the same text if it has none.
    """

    def escape(found: re.Match[str]) -> str:
        """Return a character as it is shown."""
        character = found[0]
        if character in keep:
            return character
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte, as `os.fsdecode` gives it
            return f"\\x{code - 0xDC00:02x}"
        return character.encode("unicode_escape").decode()

    return _CONTROLS.sub(escape, text)


def is_utf8(text: str) -> bool:
    """Tell whether a text is UTF-8; names of files that are not hold surrogates for their bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
