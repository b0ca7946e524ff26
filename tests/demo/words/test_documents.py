# SPDX-License-Identifier: MIT
"""Documents for readers and teachers: what they name is there, and what is made is up to date."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from pyvmm.cli import demo
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.telling.links import exercise_named, parse_link

from .written_pages import FOLDER, OVERVIEW, PAGES, page, with_chapters

DOCUMENTS = [OVERVIEW, *sorted(FOLDER.glob("*.md"))]
documents = pytest.mark.parametrize("name", [path.name for path in DOCUMENTS])
TEXTS = {path.name: path.read_text("utf-8") for path in DOCUMENTS}
STEPS = {f"{chapter.id}/{step.id}" for chapter in BOOK.chapters for step in chapter.steps}


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of each `pyvmm demo` in a document."""
    for line in re.findall(r"^pyvmm demo\b[^#>\n]*|`pyvmm demo\b[^`\n]*`", text, re.MULTILINE):
        yield shlex.split(line.strip("`"))[2:]


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_made_are_up_to_date(name: str) -> None:
    assert TEXTS[name] == page(name), "python -m tests.demo.words.written_pages"


def test_the_table_of_chapters_is_up_to_date() -> None:
    text = TEXTS[OVERVIEW.name]
    assert text == with_chapters(text), "python -m tests.demo.words.written_pages"
    assert text.count(BOOK.chapters[0].aim) == 1


@documents
def test_commands_are_as_they_are_written(name: str) -> None:
    for arguments in commands(TEXTS[name]):
        options = parsed([{"N": "1", "FILE": "run.html"}.get(one, one) for one in arguments])
        if options.chapter is not None:
            parse_link(options.chapter, BOOK)
        if getattr(options, "exercise", None) is not None:
            exercise_named(str(options.exercise), BOOK)


@documents
def test_steps_that_are_named_are_there(name: str) -> None:
    ids = "|".join(chapter.id for chapter in BOOK.chapters)
    for step in re.findall(rf"`((?:{ids})/[a-z0-9-]+)`", TEXTS[name]):
        assert step in STEPS


def test_the_lesson_takes_45_minutes_and_leaves_no_gap() -> None:
    times = re.findall(r"^### (\d+) to (\d+): ", TEXTS["lesson.md"], re.MULTILINE)
    begins, ends = [int(begin) for begin, _ in times], [int(end) for _, end in times]
    assert [0, *ends] == [*begins, 45]
    assert len(re.findall(r"`[a-z-]+/[a-z-]+`", TEXTS["lesson.md"])) >= 15
    assert (
        TEXTS["lesson.md"].count("where they go wrong")
        + TEXTS["lesson.md"].count("Where they\ngo wrong")
        + TEXTS["lesson.md"].count("Where they go wrong")
        >= 5
    )


def test_the_hand_out_is_a_page() -> None:
    lines = TEXTS["handout.md"].splitlines()
    assert len(lines) <= 60
    assert sum(len(line.split()) for line in lines) <= 560
