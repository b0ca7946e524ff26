# SPDX-License-Identifier: MIT
"""Keys as a terminal sends them."""

from __future__ import annotations

import codecs
import enum
import re
from typing import TypeAlias


class Key(enum.Enum):
    """Key without a letter."""

    ENTER = "Enter"
    ESCAPE = "Escape"
    BACKSPACE = "Backspace"
    DELETE_LINE = "Ctrl-U"
    REDRAW = "Ctrl-L"
    END = "Ctrl-D"
    FORWARD = "Right"
    BACK = "Left"
    UP = "Up"
    DOWN = "Down"
    PAGE_UP = "Page Up"
    PAGE_DOWN = "Page Down"


Pressed: TypeAlias = Key | str
"""A key, or the letter that it types."""

_CONTROLS = {
    "\r": Key.ENTER,
    "\n": Key.ENTER,
    "\x7f": Key.BACKSPACE,
    "\b": Key.BACKSPACE,
    "\x15": Key.DELETE_LINE,
    "\x0c": Key.REDRAW,
    "\x04": Key.END,
}
_SEQUENCES = {
    "A": Key.UP,
    "B": Key.DOWN,
    "C": Key.FORWARD,
    "D": Key.BACK,
    "5~": Key.PAGE_UP,
    "6~": Key.PAGE_DOWN,
}
# ECMA-48's control sequences, and those that begin with SS3 (cursor keys in application mode).
_SEQUENCE = re.compile(r"\x1b(?:\[([0-?]*[ -/]*[@-~])|O([ -~]))")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)\Z")
_MOST_UNFINISHED = 32


class Keys:
    """Bytes of a terminal, made keys. What is neither a letter nor known is left out.

    An escape character that ends what came at once is the Escape key.
    """

    def __init__(self) -> None:
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = ""

    def feed(self, data: bytes) -> list[Pressed]:
        """The keys that these bytes complete."""
        text = self._left + self._letters.decode(data)
        self._left = ""
        found: list[Pressed] = []
        at = 0
        while at < len(text):
            sequence = _SEQUENCE.match(text, at)
            if sequence is not None:
                key = _SEQUENCES.get(sequence.group(1) or sequence.group(2))
                found += [key] if key is not None else []
                at = sequence.end()
                continue
            if _UNFINISHED.match(text, at) and len(text) - at < _MOST_UNFINISHED:
                self._left = text[at:]
                break
            letter = text[at]
            at += 1
            if letter == "\x1b":
                found.append(Key.ESCAPE)
            elif letter in _CONTROLS:
                found.append(_CONTROLS[letter])
            elif letter.isprintable():
                found.append(letter)
        return found
