# SPDX-License-Identifier: MIT
"""Pages of docs/demo that are made of data: ``python -m tests.demo.words.written_pages``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.chapters.glossary import TERMS
from pyvmm.demo.telling.acts import act_words

FOLDER = Path(__file__).parents[3] / "docs" / "demo"
OVERVIEW = FOLDER.with_suffix(".md")
_BEGIN, _END = "<!-- chapters -->\n", "<!-- end -->"
_MADE = "<!-- Made by: python -m tests.demo.words.written_pages -->"


_GLOSSARY = """
The kernel's terms, as the demo uses them; in the demo the key `g` shows them. Where a chapter
explains a term, the last column has the step: `pyvmm demo slots/create` goes there."""
_EXERCISES = """
One for each chapter. `pyvmm demo --exercise N` sets the machine up and takes acts, line by line,
as `t` does in a chapter. It looks at the machine after each: solved is what *is* so, however you
came there, and the first thing that is not yet so is named. `h` gives a hint (there are three),
`r` begins again. Lines of standard input will do as well: it ends with 0 where the exercise is
solved, and with 1 where it is not."""
_SOLUTIONS = """
## Hints and solutions

For teachers, and for later. Each solution is one of several, and the tests carry all of them
out."""


def glossary_lines() -> Iterator[str]:
    """The glossary as a page."""
    yield from ("# Glossary", "", _MADE, *_GLOSSARY.splitlines(), "")
    yield from ("| term | what it is | defined in | step |", "|---|---|---|---|")
    for term in TERMS:
        step = f"`{term.step}`" if term.step else ""
        yield f"| **{term.name}** | {term.says} | {term.source} | {step} |"


def exercises_lines() -> Iterator[str]:
    """The exercises as a page, with hints and a solution each at the end."""
    chapters = {one.exercise: one for one in BOOK.chapters}
    yield from ("# Exercises", "", _MADE, *_EXERCISES.splitlines())
    for one in BOOK.exercises:
        chapter = chapters[one.number]
        yield from ("", f"## {one.number}. {one.id}", "", one.task, "")
        yield f"Chapter: {chapter.title} (`pyvmm demo {chapter.id}`)."
        yield f"To be solved: `pyvmm demo --exercise {one.number}`."
    yield from _SOLUTIONS.splitlines()
    for one in BOOK.exercises:
        yield from ("", f"**{one.number}. {one.id}**", "")
        yield from (f"{number}. {hint}" for number, hint in enumerate(one.hints, 1))
        yield from ("", "```", *map(act_words, one.solution), "```")


def chapter_lines() -> Iterator[str]:
    """The table of chapters."""
    yield from ("| chapter | about | behind it you know | exercise |", "|---|---|---|---|")
    for one in BOOK.chapters:
        exercise = f"[{one.exercise}](demo/exercises.md)" if one.exercise else ""
        yield f"| `{one.id}` | {one.title} | {one.aim} | {exercise} |"


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "glossary.md": glossary_lines,
    "exercises.md": exercises_lines,
}


def page(name: str) -> str:
    """A page's text."""
    return "".join(f"{line}\n" for line in PAGES[name]())


def with_chapters(text: str) -> str:
    """The text of docs/demo.md, with its table of chapters as it is to be."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, behind = rest.partition(_END)
    return "".join((before, begin, *(f"{line}\n" for line in chapter_lines()), end, behind))


if __name__ == "__main__":
    for each in PAGES:
        (FOLDER / each).write_text(page(each), encoding="utf-8")
    OVERVIEW.write_text(with_chapters(OVERVIEW.read_text("utf-8")), encoding="utf-8")
