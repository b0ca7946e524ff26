# SPDX-License-Identifier: MIT
"""Lines of text as every writer shows them: words, and a tone that may be shown as a colour."""

from __future__ import annotations

import enum
import textwrap
from dataclasses import dataclass

from pyvmm.visible import visible

NARROWEST = 20
"""Columns: for a terminal with fewer, text is made for these."""


class Tone(enum.Enum):
    """Tone of a line. The words say the same without it."""

    PLAIN = "plain"
    HEAD = "head"
    ASKED = "asked"
    WORKED = "worked"
    REFUSED = "refused"
    CHANGED = "changed"
    FAINT = "faint"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without control characters."""

    text: str
    tone: Tone = Tone.PLAIN


EMPTY = Line("")


def wrapped(
    text: str, width: int, tone: Tone = Tone.PLAIN, *, first: str = "", rest: str = ""
) -> list[Line]:
    """Lines of `text`, at most `width` columns wide; `first` and `rest` begin them."""
    lines = textwrap.wrap(
        visible(text),
        max(NARROWEST, width),
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
    return [Line(line, tone) for line in lines]
