# SPDX-License-Identifier: MIT
"""The demo line by line: what a reader types, and what is written."""

from __future__ import annotations

import pytest
import trio

from pyvmm.demo.playing import playing_here
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Player
from pyvmm.demo.terminal.plain import play, play_through

from .small_book import BOOK


def scripted(*lines: str, width: int = 80, at: tuple[str, str] = ("slots", "")) -> list[str]:
    """What is written to a reader who types these lines on the model."""
    typed = iter(lines)
    written: list[str] = []

    async def ask(prompt: str) -> str | None:
        written.append(prompt)
        return next(typed, None)

    async def main() -> None:
        async with playing_here(Player(BOOK, *at), StageHost.MODEL) as reader:
            await reader.begin()
            await play(reader, BOOK, written.append, ask, width)

    trio.run(main)
    return written


def said(*lines: str, at: tuple[str, str] = ("slots", "")) -> str:
    return "\n".join(scripted(*lines, at=at))


def test_a_prediction_stands_beside_the_answer() -> None:
    assert "you predicted: as much as KVM gives; it was: none" in said("2")
    assert "as you predicted: none. It has no slots." in said("1")
    assert "the answer: none." in said("")
    assert "the answer: none." in said("s")


def test_back_says_where_the_beginning_is_and_restart_begins() -> None:
    written = said("1", "b", "r")
    assert "this is the beginning of the chapter" in written
    assert written.count("1/4 A VM and its memslots") == 2


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("x", "'x' means nothing here; ? says what does"),
        ("9", "there is no answer 9; they are 1 to 2"),
        ("0", "there is no answer 0"),
        ("100", "'100' means nothing here"),
        ("j sluts", "there is no chapter 'sluts'; did you mean slots?"),
        ("j slots/overlop", "did you mean overlap?"),
        ("v colour", "there is no 'colour'; there are calls,"),
        ("t raed", "did you mean read?"),
        ("t 9", "nothing is offered here as number 9"),
        ("t close vm 0\n", "that cannot be tried: there is no VM 0"),
        ("g memsl", "  memslot: A range"),
        ("g xyz", "it has nothing that begins with xyz"),
        ("?", "  q         quit"),
        ("v calls", "there is nothing of that kind here: calls"),
        ("v pages", "guest memory: none"),
    ],
)
def test_lines(line: str, answer: str) -> None:
    assert answer in said(*line.split("\n"))


def test_what_is_tried_is_predicted_before_it_is_shown() -> None:
    written = said("1", "t set-slot 0 3 0x1000 0x800", "3", "t make-vm 1", "", "t make-vm 2", "9")
    before, _, after = written.partition("The answer is:\n  1  it works\n")
    assert "tried" not in before
    assert "tried: set-slot 0 3 0x1000 0x800" in after
    assert "you predicted: refused: EEXIST; it was: refused: EINVAL." in after
    # Without a prediction nothing is held against one.
    assert "tried: make-vm 1\nANSWER: it worked\n\nKVM was not asked" in after
    assert "there is no answer 9; they are 1 to 3" in after


def test_a_step_before_which_something_was_tried_is_still_to_be_done() -> None:
    written = said("t make-vm 5", "1", "", "1")
    assert written.count("1/4 A VM and its memslots") == 2
    assert "as you predicted: none" not in written, "there are two of them"


def test_what_lacks_is_asked_for() -> None:
    written = said("j", "2", "t", "", "t", "make-vm 3", "")
    assert "*   1  A VM and its memslots" not in written
    assert "* 1  A VM and its memslots  (slots, 4 steps)" in written
    assert "1/2 Files - on the model" in written
    assert "  make-vm vm [private]" in written
    assert "  read guest|host vm gpa" in written
    assert "tried: make-vm 3" in written


def test_a_step_to_begin_at() -> None:
    assert said("2", at=("slots", "overlap")).startswith("\n3/4 A VM and its memslots")


def test_behind_the_last_step_comes_the_next_chapter_and_behind_that_the_end() -> None:
    written = said(*[""] * 10)
    assert "End of the chapter. A VM begins without any memory." in written
    assert "1/2 Files - on the model" in written
    assert scripted(*["n"] * 99, at=(BOOK.chapters[-1].id, "")).count("") < 99


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = ["1", "t make-vm 1", "1", "?", "g", "v", "t", "", "j", "", *[""] * 40]
    written = scripted(*lines, width=width)
    assert len(written) > 150
    assert [one for one in written if len(one) > max(width, 40)] == []
    if width != 20:
        assert max(map(len, written)) <= width
    assert all(line.isascii() and line.isprintable() for line in written)


def test_played_through_whole_or_one_chapter() -> None:
    async def main(whole: bool) -> tuple[bool, str]:
        written: list[str] = []
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            held = await play_through(reader, BOOK, written.append, 80, whole=whole)
        return held, "\n".join(written)

    held, text = trio.run(main, False)
    assert held
    assert "4/4 A VM" in text
    assert "Files - on" not in text
    _, text = trio.run(main, True)
    for chapter in BOOK.chapters:
        assert f"1/{len(chapter.steps)} {chapter.title}" in text
    assert text.count("End of the chapter") == len(BOOK.chapters)


def test_a_question_that_no_answer_fits_makes_it_end_with_another_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyvmm.demo.telling.player.came_true_of", lambda *_: None)

    async def main() -> tuple[bool, list[str]]:
        written: list[str] = []
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            held = await play_through(reader, BOOK, written.append, 80, whole=False)
        return held, written

    held, written = trio.run(main)
    assert not held
    assert "none of the answers came true on this host" in written
