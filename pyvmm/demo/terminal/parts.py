# SPDX-License-Identifier: MIT
"""Parts of what a step shows, each with its lines and with a word on whether it has changed."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.outcomes import Observed
from pyvmm.demo.terminal import text
from pyvmm.demo.terminal.lines import EMPTY, Line, Tone
from pyvmm.demo.terminal.text_attacker import attacker, console
from pyvmm.demo.terminal.text_calls import calls
from pyvmm.demo.terminal.text_memory import has_changed, memory
from pyvmm.demo.terminal.text_pins import pins, pins_changed


class Part(enum.Enum):
    """Part of the picture, in the order in which they are shown."""

    CALLS = "calls"
    ATTACKER = "attacker"
    CONSOLE = "console"
    PAGES = "pages"
    PINS = "pins"


@dataclass(frozen=True, slots=True)
class Shown:
    """A part with its lines."""

    part: Part
    lines: tuple[Line, ...]
    changed: bool


def parts(
    moment: Moment, width: int, *, brief: bool = False, legend: bool = True
) -> tuple[Shown, ...]:
    """The parts of a moment, those without anything to show left out.

    `brief`: many calls are counted only. `legend`: marks are explained where they are.
    """
    outcome, before = moment.outcome, moment.before
    called = bool(outcome.calls or outcome.exits)
    found = [Shown(Part.CALLS, tuple(calls(outcome, width, brief=brief)), called)]
    if outcome.seen:
        found.append(Shown(Part.ATTACKER, tuple(attacker(outcome, width)), True))
    if outcome.console:
        found.append(Shown(Part.CONSOLE, tuple(console(outcome, width)), True))
    return (*found, *pictures(before, outcome.after, width, legend=legend))


def pictures(
    before: Observed, after: Observed, width: int, *, legend: bool = True
) -> Iterator[Shown]:
    """The pictures of a state: its memory, and who keeps what alive."""
    for part, lines, changed in (
        (Part.PAGES, memory(before, after, width), has_changed(before, after)),
        (Part.PINS, pins(before, after, width, legend=legend), bool(pins_changed(before, after))),
    ):
        if part is Part.PAGES and after.scenes:
            continue  # Only references are told there.
        yield Shown(part, tuple(lines), changed)


def in_order(moment: Moment, shown: Sequence[Shown], width: int) -> Iterator[Line]:
    """A moment from top to bottom: the answer, the calls, and of all else what has changed."""
    others = [one for one in shown if one.part is not Part.CALLS]
    yield from text.answer(moment, width)
    for one in shown:
        if one.part is Part.CALLS:
            yield from (EMPTY, *one.lines)
    for one in others:
        if one.changed:
            yield EMPTY
            yield from one.lines
    same = [one.part.value for one in others if not one.changed]
    if same:
        yield Line(f"as before: {' and '.join(same)}", Tone.FAINT)
