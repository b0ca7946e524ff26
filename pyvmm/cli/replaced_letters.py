# SPDX-License-Identifier: MIT
"""Replacements for letters that a stream's encoding does not have (ASCII, Latin-1)."""

from __future__ import annotations

from pyvmm.visible import visible

_SURROGATES = range(0xD800, 0xE000)
_INSTEAD = {
    **dict.fromkeys("─━╌╍┄┅┈┉═╴╶╸╺╼╾", "-"),
    **dict.fromkeys("│┃╎╏┆┇┊┋║╵╷╹╻╽╿", "|"),
    # The eighths of a bar (U+2588 to U+258F): what is half a letter or more counts as one.
    **dict.fromkeys("█▉▊▋▌", "#"),
    **dict.fromkeys("▍▎▏", " "),
    "…": ".",
}
"""One letter for one, so that what stands in columns stays there."""


def replaced(text: str, encoding: str) -> str:
    """`text` with nothing in it that `encoding` lacks."""
    lacking = {letter for letter in set(text) if not _has(encoding, letter)}
    return text.translate({ord(letter): _instead(letter) for letter in lacking})


def _instead(letter: str) -> str:
    if ord(letter) in _SURROGATES:
        return visible(letter)
    # What is drawn with other corners and crossings is still a table.
    return _INSTEAD.get(letter, "+" if "\u2500" <= letter <= "\u257f" else "?")


def _has(encoding: str, letter: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
