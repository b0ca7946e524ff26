# SPDX-License-Identifier: MIT
"""The demo on a screen, as its reader sees it: a process on a pseudo-terminal of its own."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.playing import playing_here
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Player
from pyvmm.demo.terminal.frames import Frame
from pyvmm.demo.terminal.reading import Reading
from pyvmm.errors import ExitCode

from ...cli.command import HANG
from .on_screen import screen_terminal

pytestmark = pytest.mark.slow

MODEL = ("slots", "--host", "model")


def first_screen(columns: int, rows: int) -> list[str]:
    """The first screen of the first chapter, as it is composed."""

    async def main() -> Frame:
        async with playing_here(Player(BOOK, "slots"), StageHost.MODEL) as reader:
            await reader.begin()
            return Reading(BOOK).frame(reader.player.view, columns, rows)

    return [line.text.rstrip() for line in trio.run(main).lines]


def test_a_reader_in_front_of_80_columns_and_24_rows() -> None:
    with screen_terminal() as tty:
        tty.demo(*MODEL)
        tty.until_rows(first_screen(80, 24))
        assert b"\x1b[1m" in tty.seen, "the heading is bold"
        assert b"?1049" not in tty.seen, "no alternate screen"
        tty.type(b"2")
        tty.until_shown("you predicted: ", "ANSWER: it worked", "Enter next")
        # Typed ahead: next, carry out, and look at what is behind the calls.
        tty.type(b"n\nv")
        tty.until_shown("-- calls*  [pages]  [pins]", "  16 KiB  shared  (new)", "? help  q quit")
        tty.type(b"t")
        tty.until_shown("try, by number or in words:")
        tty.type(b"set-slot 0 1 0x100000 4095\x7f6\n")
        tty.until_shown("You try: set-slot 0 1 0x100000 0x1000", "1-5 predict")
        tty.type(b"3")
        tty.until_shown("as you predicted: refused: EEXIST.")
        tty.type(b"q")
        assert tty.wait() == 0
        tty.assert_restored()
        assert "as you predicted: refused: EEXIST." in "\n".join(tty.rows), "it stays to be read"


def test_a_screen_of_40_columns_and_12_rows_without_colour_and_another_size_in_the_middle() -> None:
    with screen_terminal(40, 12) as tty:
        tty.demo(*MODEL, NO_COLOR="1")
        tty.until_rows(first_screen(40, 12))
        tty.resize(80, 24)
        tty.until_rows(first_screen(80, 24))
        tty.resize(40, 12)
        tty.until_rows(first_screen(40, 12))
        tty.type(b"1n\n")
        tty.until_shown("Space more 10/")
        tty.type(b" ")
        tty.until_shown("Space more 19/")
        # What another program wrote is gone after Ctrl-L.
        os.write(tty.slave, b"\x1b[5;5Hsomebody else")
        tty.until_shown("somebody else")
        tty.type(b"\x0c?")
        tty.until_shown("any key goes")
        assert "somebody else" not in "\n".join(tty.rows)
        tty.type(b"xq")
        assert tty.wait() == 0
        tty.assert_restored()
        # Bold and dim are no colours.
        assert not [number for number in (b"\x1b[3", b";3", b"\x1b[9") if number in tty.seen]


def test_stopped_continued_and_interrupted() -> None:
    with screen_terminal() as tty:
        tty.demo(*MODEL)
        tty.until_shown("q quit")
        assert tty.settings != tty.before
        tty.type(b"\x1a")
        tty.until_stopped()
        tty.assert_restored()
        tty.look()
        tty.screen.reset()
        tty.signal(signal.SIGCONT)
        tty.until_rows(first_screen(80, 24))
        tty.type(b"1")
        tty.until_shown("as you predicted")
        tty.type(b"\x03")
        assert tty.wait() == ExitCode.INTERRUPTED
        tty.assert_restored()
        assert "interrupted by SIGINT" in "\n".join(tty.rows)


def test_a_terminal_that_hangs_up_ends_it() -> None:
    with screen_terminal() as tty:
        tty.demo(*MODEL)
        tty.until_shown("q quit")
        os.close(tty.master)
        os.close(tty.slave)
        tty.master = tty.slave = -1
        assert tty.process is not None
        tty.process.wait(HANG)


@pytest.mark.parametrize("how", ["dumb", "option", "key"])
def test_line_by_line_there_is_no_escape_character(how: str) -> None:
    with screen_terminal() as tty:
        tty.demo(
            *MODEL,
            *(["--plain"] if how == "option" else []),
            **({"TERM": "dumb"} if how == "dumb" else {}),
        )
        if how == "key":
            tty.until_shown("q quit")
            tty.type(b"p")
        tty.until_shown("1-2, Enter to see, ? for help: ")
        tty.type(b"1\n\nv pins\nq\n")
        assert tty.wait() == 0
        tty.assert_restored()
        plain = tty.seen.rpartition(b"\x1b")[2] if how == "key" else tty.seen
        assert b"\x1b" not in plain
        assert b"as you predicted: none." in plain
        assert b"+ [process] ==> [vm 0(1)]  descriptor *" in plain
