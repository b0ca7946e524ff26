# SPDX-License-Identifier: MIT
"""``pyvmm demo`` in a terminal, on a screen or line by line, and without one: played through."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing

from pyvmm.cli.standard_error import say_to_user
from pyvmm.cli.standard_output import columns, encoded, print_answer
from pyvmm.cli.until_signal import JobSignals, until_signal
from pyvmm.demo.playing import playing
from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.links import exercise_named
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Player
from pyvmm.demo.terminal.plain import play, play_through
from pyvmm.errors import ExitCode

_WIDTH = 80
_NO = 1
"""Exit code where of a question's answers none came true, or an exercise is not solved."""


def tell(
    options: argparse.Namespace, book: Book, begin: tuple[str, str], wish: StageHost | None
) -> int:
    """Tell the book from a chapter and a step on; the exit code."""
    player = Player(book, *begin)
    if not (os.isatty(0) and os.isatty(1)):
        return _through(options, book, player, wish)
    if options.plain or os.environ.get("TERM", "dumb") in {"", "dumb"}:
        return _plain(options, book, player, wish)
    return _screen(options, book, player, wish)


def _through(
    options: argparse.Namespace, book: Book, player: Player, wish: StageHost | None
) -> int:
    async def main() -> bool:
        async with playing(player, wish, say_to_user, options.early) as reader:
            await reader.begin()
            whole = options.chapter is None
            return await play_through(reader, book, print_answer, _width(), whole=whole)

    return ExitCode.OK if until_signal(options.ending_signals, main) else _NO


def _plain(options: argparse.Namespace, book: Book, player: Player, wish: StageHost | None) -> int:
    from pyvmm.demo.terminal.typed_lines import TypedLines

    async def main() -> None:
        async with playing(player, wish, say_to_user, options.early) as reader:
            await reader.begin()
            await play(reader, book, print_answer, TypedLines(0, _show).ask, _width())

    until_signal(options.ending_signals, main)
    return ExitCode.OK


def _screen(options: argparse.Namespace, book: Book, player: Player, wish: StageHost | None) -> int:
    from pyvmm.demo.terminal.reading import Away
    from pyvmm.demo.terminal.screen import Screen
    from pyvmm.demo.terminal.typed_lines import TypedLines

    screen = Screen(book, player, _encoded)
    jobs = JobSignals(*screen.job_signals)
    jobs.take = screen.signalled

    async def main() -> None:
        with closing(screen):
            await screen.open()
            async with playing(player, wish, screen.say, options.early) as reader:
                if await screen.play(reader) is Away.PLAIN:
                    screen.close()
                    await play(reader, book, print_answer, TypedLines(0, _show).ask, _width())

    until_signal(options.ending_signals, main, jobs)
    return ExitCode.OK


def exercise(options: argparse.Namespace, book: Book, wish: StageHost | None) -> int:
    """Have an exercise solved by lines that are typed, or come in; the exit code.

    Raises `UsageError` for one that the book has not.
    """
    from pyvmm.demo.exercising import exercising
    from pyvmm.demo.terminal.exercise import Solving
    from pyvmm.demo.terminal.typed_lines import TypedLines

    chosen = exercise_named(options.exercise, book)
    asks = os.isatty(0) and os.isatty(1)
    lines = TypedLines(0, _show if asks else lambda _: None)

    async def main() -> bool:
        async with exercising(chosen, wish, say_to_user) as attempt:
            return await Solving(attempt, print_answer, _width()).solve(lines.ask)

    return ExitCode.OK if until_signal(options.ending_signals, main) else _NO


def _width() -> int:
    return columns() or _WIDTH


def _show(prompt: str) -> None:
    """Write a prompt, behind which the reader types."""
    sys.stdout.flush()
    os.write(1, _encoded(prompt))


def _encoded(text: str) -> bytes:
    return encoded(text, sys.stdout.encoding)
