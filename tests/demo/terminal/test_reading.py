# SPDX-License-Identifier: MIT
"""A reader's screen without a terminal: what keys do, and that every screen fits."""

from __future__ import annotations

from dataclasses import replace

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.cli.standard_output import encoded
from pyvmm.demo.chapters import BOOK as CHAPTERS
from pyvmm.demo.playing import playing_here
from pyvmm.demo.telling.orders import StageLost, StageOpened
from pyvmm.demo.telling.outcomes import Observed, Staged, StageHost
from pyvmm.demo.telling.player import Phase, Plain, Player, View
from pyvmm.demo.terminal.frames import Frame, page_of
from pyvmm.demo.terminal.keys import Key, Pressed
from pyvmm.demo.terminal.parts import Part
from pyvmm.demo.terminal.reading import Away, Reading
from pyvmm.demo.terminal.screen import drawn

from .small_book import BOOK

ENTER = Key.ENTER


class Seen:
    """What a reader saw: a screen behind each key, and how it ended."""

    def __init__(self) -> None:
        self.screens: list[list[str]] = []
        self.away: Away | None = None
        self.phases: list[Phase] = []

    @property
    def last(self) -> str:
        return "\n".join(self.screens[-1])


def read(*keys: Pressed, columns: int = 80, rows: int = 24, at: str = "slots") -> Seen:
    """Press keys in front of a screen of the model's."""
    seen = Seen()

    async def main() -> None:
        async with playing_here(Player(BOOK, at), StageHost.MODEL) as reader:
            reading = Reading(BOOK)

            def look() -> None:
                frame = reading.frame(reader.player.view, columns, rows)
                assert len(frame.lines) == rows
                assert max(len(line.text) for line in frame.lines) <= columns
                assert all(line.text.isprintable() for line in frame.lines)
                seen.screens.append([line.text for line in frame.lines])
                seen.phases.append(reader.player.view.phase)

            look()
            await reader.begin()
            look()
            for key in keys:
                asked = reading.press(key, reader.player.view, columns, rows)
                if isinstance(asked, Away):
                    seen.away = asked
                    return
                if asked is not None:
                    await reader.move(asked)
                look()

    trio.run(main)
    return seen


def test_the_first_words_are_there_before_the_stage_is() -> None:
    first = read().screens[0]
    assert first[:2] == [
        "1/4 A VM and its memslots",
        "A virtual machine is a file descriptor. KVM_CREATE_VM on /dev/kvm makes one.",
    ]
    assert "A stage is being opened ..." in first


def test_prediction_answer_and_the_way_out() -> None:
    seen = read("1")
    assert "as you predicted: none. It has no slots." in seen.last
    assert "you predicted" not in read("s").last
    assert read("q").away is Away.QUIT
    assert read(Key.END).away is Away.QUIT
    assert read("p").away is Away.PLAIN
    assert "'x' means nothing here; ? says what does" in read("x").last
    assert "there is no answer 9; they are 1 to 2" in read("9").last
    assert "there is nothing to be predicted now" in read("1", "1").last


def test_arrows_are_next_and_back() -> None:
    seen = read(Key.FORWARD, Key.FORWARD, Key.BACK)
    assert "2/4 A VM" in seen.screens[-2][0]
    assert seen.screens[-1] == seen.screens[-3]


def test_where_not_all_fits_parts_are_shown_in_turn() -> None:
    seen = read("1", "n", "n", "v", "v", "v", columns=40, rows=12)
    tabs = ["\n".join(one) for one in seen.screens[-4:]]
    assert "-- [calls]  pages*  pins*  (v: the next)" in tabs[0]
    assert "-- calls*  [pages]  pins*  (v: the next)" in tabs[1]
    assert "+ 0x100000-0x103fff  16 KiB  shared" in tabs[1]
    assert "-- calls*  pages*  [pins]  (v: the next)" in tabs[2]
    assert " + [vm 0(1)] --> [slot 0]   its slot" in tabs[2]
    assert tabs[3] == tabs[0]


def test_more_goes_round() -> None:
    seen = read("1", "n", "n", " ", " ", " ", columns=40, rows=12)
    assert seen.screens[-1] == seen.screens[-4]
    all_lines = {line for one in seen.screens[-4:-1] for line in one}
    assert "    .guest_phys_addr = 0x100000" in all_lines
    assert "memfd_create(pyvmm-guest, MFD_CLOEXEC) =" in all_lines
    up = read("1", "n", "n", Key.DOWN, Key.DOWN, Key.UP, Key.PAGE_UP, columns=40, rows=12)
    assert up.screens[-1] == up.screens[-5]
    assert up.screens[-2] == up.screens[-4]


def test_what_is_new_is_shown_from_its_beginning() -> None:
    seen = read("1", "n", "n", " ", "n", "n", columns=40, rows=12)
    assert seen.screens[-1][1] == "ANSWER: refused, EEXIST"


def typed(words: str) -> list[Pressed]:
    return [*words, ENTER]


def test_a_try_is_typed_predicted_and_shown() -> None:
    seen = read("1", "t", *typed("make-vm 3"), "2")
    assert "  1  it works" in seen.screens[-2]
    assert "you predicted: refused: EINVAL; it was: it works." in seen.last
    assert "tried: make-vm 3" in seen.last
    assert "you predicted" not in read("t", *typed("make-vm 3"), ENTER).last


def test_a_try_that_means_nothing_stays_to_be_changed_or_left() -> None:
    seen = read("t", *typed("maik-vm 3"))
    assert "there is no 'maik-vm'; did you mean make-vm?" in seen.last
    assert seen.screens[-1][-1].endswith("maik-vm 3")
    seen = read("t", *typed("maik-vm 3"), Key.DELETE_LINE, *typed("make-vm 33"), "1")
    assert "that cannot be tried: the VMs here are 0..7" in seen.last
    assert "1  none" in read("t", "x", Key.ESCAPE).last
    assert "1  none" in read("t", ENTER).last
    assert "1  none" in read("t", *typed("look"), Key.ESCAPE).last
    assert "there is no answer x; they are 1 to 2" in read("t", *typed("look"), "x").last


def test_sheets() -> None:
    assert "  p         go on line by line, for screen readers" in read("?").last
    assert "1  none" in read("?", "x").last
    assert "  GPA: Guest-physical address." in read("g").last
    assert "* 1  A VM and its memslots  (slots, 4 steps)" in read("j").last
    assert "Files" in read("j", *typed("2")).last.splitlines()[0]
    assert "3/4 A VM" in read("j", *typed("slots/overlap")).last
    assert "did you mean slots?" in read("j", *typed("slts")).last


def test_the_end_of_a_chapter_and_of_the_book() -> None:
    seen = read("1", *[ENTER] * 7)
    assert "End of the chapter." in seen.last
    assert "Of your 1 predictions 1 came true." in seen.last
    assert seen.screens[-1][-1].startswith("Enter next chapter")
    assert "1/2 Files" in read("1", *[ENTER] * 8).last
    end = read(*[ENTER] * 99, at=BOOK.chapters[-1].id)
    assert end.away is Away.QUIT
    assert end.screens[-1][-1].startswith("Enter end")


pressed: st.SearchStrategy[Pressed] = st.one_of(
    st.sampled_from([*Key, ENTER, ENTER]),
    st.sampled_from("nbrs123 vjtg?x"),
    st.characters().filter(str.isprintable),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(pressed, max_size=25), st.integers(20, 120), st.integers(4, 40))
def test_any_keys_on_any_screen_fit(keys: list[Pressed], columns: int, rows: int) -> None:
    read(*(key for key in keys if key not in {"q", "p"}), columns=columns, rows=rows)


def test_an_encoding_without_the_letter_shows_another() -> None:
    async def main() -> str:
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            reading = Reading(BOOK)
            for key in ("t", "ä", "€"):
                reading.press(key, reader.player.view, 80, 24)
            return drawn(reading.frame(reader.player.view, 80, 24), 80)

    text = trio.run(main)
    assert "words: ä€" in text
    assert b"words: ??" in encoded(text, "ascii")
    assert b"words: \xe4?" in encoded(text, "latin-1")


def test_a_stage_that_is_lost_can_be_had_again() -> None:
    player = Player(BOOK, "slots")
    (order,) = player.begin()
    player.told(StageOpened(Staged(StageHost.LAB, "7.3"), Observed(), order.ticket))
    player.move(Plain.NEXT)
    reading = Reading(BOOK)
    doing = "\n".join(line.text for line in reading.frame(player.view, 80, 24).lines)
    assert "on the lab, Linux 7.3" in doing
    assert "It is being carried out ..." in doing
    player.told(StageLost("the lab has gone", order.ticket))
    lost = [line.text for line in reading.frame(player.view, 80, 24).lines]
    assert lost[1] == "The stage was lost."
    assert lost[-2] == "the lab has gone"
    assert lost[-1].startswith("Enter begin again")
    assert reading.press(ENTER, player.view, 80, 24) is Plain.RESTART
    assert reading.press("q", player.view, 80, 24) is Away.QUIT


def test_what_is_said_of_a_lab_s_start_is_shown_until_a_key() -> None:
    player = Player(BOOK, "slots")
    player.begin()
    reading = Reading(BOOK)
    reading.say("the lab is being started")
    assert reading.frame(player.view, 80, 24).lines[-2].text == "the lab is being started"
    reading.press(Key.REDRAW, player.view, 80, 24)
    assert reading.frame(player.view, 80, 24).lines[-2].text == ""


def test_a_screen_that_grows_while_it_is_scrolled_is_full() -> None:
    async def main() -> tuple[Frame, Frame]:
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            reading = Reading(BOOK)
            for key in "???":
                reading.press(key, reader.player.view, 40, 12)
            for _ in range(3):
                reading.press(Key.PAGE_DOWN, reader.player.view, 40, 12)
            small = reading.frame(reader.player.view, 40, 12)
            return small, reading.frame(reader.player.view, 40, 24)

    small, large = trio.run(main)
    assert small.first + small.room == small.total
    assert large.first + large.room == large.total
    assert all(line.text for line in large.lines[1:-1])


def test_in_a_chapter_about_references_their_change_goes_before_the_calls() -> None:
    async def main() -> View:
        async with playing_here(Player(CHAPTERS, "pins"), StageHost.MODEL) as reader:
            await reader.begin()
            await reader.move(Plain.NEXT)
            return reader.player.view

    view = trio.run(main)
    assert view.moment is not None
    called = replace(view.moment.outcome, exits=("0: IoOut()",) * 12)
    view = replace(view, moment=replace(view.moment, outcome=called))
    page = page_of(view, None, 80, 12)
    assert (page.parts, page.part) == ((Part.CALLS, Part.PINS), Part.PINS)
    assert page_of(view, Part.CALLS, 80, 12).part is Part.CALLS
