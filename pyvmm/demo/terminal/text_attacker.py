# SPDX-License-Identifier: MIT
"""Views from outside: what an attacker on the host got, and what the guest wrote to its console."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.demo.telling.outcomes import Content, Outcome, Seen, name_of
from pyvmm.demo.terminal.lines import Line, Tone, wrapped

_MOST_LINES = 40
"""Most lines of the console that are shown: the last ones."""


def attacker(outcome: Outcome, width: int) -> Iterator[Line]:
    """Each road with what came of it."""
    for one in outcome.seen:
        got = one.words if one.content is not Content.REFUSED else "nothing: closed"
        if one.errno:
            got += f", {name_of(one.errno)}"
        tone = Tone.REFUSED if one.content is Content.SECRET else Tone.PLAIN
        said = f"by {one.road.value} at {one.gpa:#x} an attacker on the host gets {got}"
        yield from wrapped(said, width, tone, rest="    ")
        if one.data:
            yield from wrapped(f"bytes: {_bytes(one)}", width, first="    ", rest="      ")
        if one.note:
            yield from wrapped(one.note, width, first="    ", rest="    ")


def _bytes(one: Seen) -> str:
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in one.data)
    return f"{one.data.hex(' ')}  {shown}"


def console(outcome: Outcome, width: int) -> Iterator[Line]:
    """The guest's own words; it is not to be trusted: `wrapped` writes control characters out."""
    text = outcome.console.decode("utf-8", "surrogateescape")
    lines = text.rstrip("\n").split("\n")
    if len(lines) > _MOST_LINES:
        yield Line(f"... {len(lines) - _MOST_LINES} lines before these", Tone.FAINT)
    for line in lines[-_MOST_LINES:]:
        yield from wrapped(line, width, first="| ", rest="| ") or [Line("|")]
