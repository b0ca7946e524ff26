# SPDX-License-Identifier: MIT
"""Things that a reader looks up: commands, chapters, what may be tried, the glossary."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.demo.telling.acts import act_words
from pyvmm.demo.telling.chapter import Book, Chapter, StageKind, Step
from pyvmm.demo.telling.usages import usages
from pyvmm.demo.terminal.commands import HELP
from pyvmm.demo.terminal.lines import Line, Tone, wrapped

_COLUMN = 10


def help_lines(width: int, extra: tuple[tuple[str, str], ...] = ()) -> Iterator[Line]:
    """Commands with what they do; `extra` are a writer's own."""
    yield Line("Commands", Tone.HEAD)
    for key, about in (*HELP, *extra):
        yield from wrapped(f"{key:<{_COLUMN}}{about}", width, first="  ", rest=" " * (_COLUMN + 2))


def chapter_lines(book: Book, now: Chapter | None, width: int) -> Iterator[Line]:
    """The chapters by number; the one that is read is marked."""
    yield Line("Chapters", Tone.HEAD)
    for number, one in enumerate(book.chapters, 1):
        mark = "*" if one is now else " "
        said = f"{mark}{number:>2}  {one.title}  ({one.id}, {len(one.steps)} steps)"
        yield from wrapped(said, width, rest="     ", first="" if one is now else " ")


def try_lines(step: Step, kind: StageKind, width: int) -> Iterator[Line]:
    """Offers of the step for trying, and all that may be typed on a stage of this kind."""
    yield Line("Try something of your own", Tone.HEAD)
    for number, act in enumerate(step.tries, 1):
        yield from wrapped(f"{number}  {act_words(act)}", width, first="  ", rest="     ")
    if step.tries:
        yield Line("or")
    yield from act_lines(kind, width)


def act_lines(kind: StageKind, width: int) -> Iterator[Line]:
    """All acts that may be typed on a stage of this kind, with their arguments."""
    yield from wrapped("Type one of these, with numbers as 4096 or 0x1000:", width)
    for usage in usages(kind):
        yield from wrapped(usage, width, Tone.FAINT, first="  ", rest="      ")


def glossary_lines(book: Book, word: str, width: int) -> Iterator[Line]:
    """The terms that begin with `word`."""
    found = [one for one in book.glossary if one[0].lower().startswith(word.lower())]
    yield Line("Glossary", Tone.HEAD)
    if not found:
        yield from wrapped(f"it has nothing that begins with {word[:40]}", width)
    for term, meaning in found:
        yield from wrapped(f"{term}: {meaning}", width, first="  ", rest="      ")
