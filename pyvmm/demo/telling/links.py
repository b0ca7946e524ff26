# SPDX-License-Identifier: MIT
"""Links: a place in the book in a word, ``slots`` or ``slots/overlap``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pyvmm.demo.telling.chapter import Book, Chapter, Exercise
from pyvmm.errors import UsageError

_MOST = 40
"""Letters of what was asked for that an error repeats."""


def parse_link(link: str, book: Book) -> tuple[str, str]:
    """Chapter and step of a link, the step "" for the chapter's beginning.

    Raises `UsageError`, which names the nearest, for what the book has not.
    """
    name, has_step, step = link.partition("/")
    chapter = chapter_named(name, book)
    if has_step and all(one.id != step for one in chapter.steps):
        ids = [one.id for one in chapter.steps]
        raise _no("open a chapter", f"no step {step[:_MOST]!r} in {name}", step, ids)
    return name, step


def chapter_named(name: str, book: Book) -> Chapter:
    """The chapter of this name. Raises `UsageError`, which names the nearest, for none of these."""
    found = next((one for one in book.chapters if one.id == name), None)
    if found is None:
        ids = [one.id for one in book.chapters]
        raise _no("open a chapter", f"no chapter {name[:_MOST]!r}", name, ids)
    return found


def exercise_named(name: str, book: Book) -> Exercise:
    """The exercise of this number or name. Raises `UsageError` for none of the book's."""
    for one in book.exercises:
        if name in {str(one.number), one.id}:
            return one
    cause = f"no exercise {name[:_MOST]!r}"
    if name.isdigit():  # The nearest number is no help: it is another exercise.
        raise _no("open an exercise", cause, "", [str(one.number) for one in book.exercises])
    raise _no("open an exercise", cause, name, [one.id for one in book.exercises])


def _no(attempt: str, cause: str, name: str, names: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(name, names, 1)
    there_are = f"there are {', '.join(names)}" if names else "there are none"
    return UsageError(
        attempt, f"there is {cause}", f"did you mean {near[0]}?" if near else there_are
    )
