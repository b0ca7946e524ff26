# SPDX-License-Identifier: MIT
"""``pyvmm demo``: private guest memory, set up step by step on the real thing."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from pyvmm.cli import demo_web
from pyvmm.cli.ending_signals import ending_signals
from pyvmm.cli.standard_error import say_to_user
from pyvmm.cli.standard_output import columns, encoded, print_answer
from pyvmm.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pyvmm.demo.telling.chapter import Chapter
    from pyvmm.demo.telling.outcomes import StageHost
    from pyvmm.demo.telling.player import Player

_WIDTH = 80
_NO = 1
"""Exit code where a question had no answer that came true, or an exercise is not solved."""
_WORDS = """\
Without a terminal the chapter is played through, or all of them if none is named. Ends with 0, with
1 where of a question's answers none came true on this host, or an exercise was not solved.
"""
T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _WORDS
    parser.add_argument(
        "chapter",
        nargs="?",
        metavar="CHAPTER[/STEP]",
        help="where to begin (default: at the beginning)",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write the run, of all chapters or of CHAPTER, as a page that needs nothing else",
    )
    parser.add_argument("--list", action="store_true", help="list the chapters, and end")
    parser.add_argument(
        "--host",
        choices=("auto", "kvm", "lab", "model"),
        default="auto",
        help="what carries the steps out (default: for each chapter the best that is there)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="append line after line, for screen readers (default with TERM=dumb)",
    )
    demo_web.add_arguments(parser)
    parser.add_argument("--stage-process", action="store_true", help=argparse.SUPPRESS)


def command(options: argparse.Namespace) -> int:
    """Play: asks on a terminal, plays through without one."""
    if options.stage_process:
        from pyvmm.demo.house import process

        return process.main()
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.telling.beginning import Telling
    from pyvmm.demo.telling.links import parse_link
    from pyvmm.demo.telling.outcomes import StageHost
    from pyvmm.demo.telling.player import Player

    if options.list:
        return _list()
    begin = (BOOK.chapters[0].id, "")
    if options.chapter is not None:
        begin = parse_link(options.chapter, BOOK)
    wish = None if options.host == "auto" else StageHost(options.host)
    if demo_web.is_asked_for(options):
        _until_signal(options, demo_web.server(options, Telling(BOOK, *begin, wish)))
        return ExitCode.OK
    if options.html is not None:
        if begin[1]:
            raise UsageError("write a hand-out", "a hand-out tells a whole chapter", begin[0])
        chapters = [one for one in BOOK.chapters if options.chapter is None or one.id == begin[0]]
        return _handout(options, chapters, wish)
    player = Player(BOOK, *begin)
    if os.isatty(0) and os.isatty(1):
        return _plain(options, player, wish)
    return _through(options, player, wish)


def _list() -> int:
    from pyvmm.demo.chapters import BOOK

    width = max(len(one.id) for one in BOOK.chapters)
    print_answer("\n".join(f"{one.id:<{width}}  {one.title}" for one in BOOK.chapters))
    return ExitCode.OK


def _handout(options: argparse.Namespace, chapters: list[Chapter], wish: StageHost | None) -> int:
    from pyvmm.cli.demo_handout import Handout
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.page.run_through import run_through
    from pyvmm.demo.playing import playing
    from pyvmm.demo.telling.player import Player

    handout = Handout(options.html)

    async def main() -> None:
        async with playing(Player(BOOK, chapters[0].id), wish) as reader:
            await reader.begin()
            handout.told = await run_through(reader, chapters)

    _until_signal(options, main)
    return ExitCode.OK if handout.write() else _NO


def _through(options: argparse.Namespace, player: Player, wish: StageHost | None) -> int:
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.playing import playing
    from pyvmm.demo.terminal.plain import play_through

    async def main() -> bool:
        async with playing(player, wish, say_to_user) as reader:
            await reader.begin()
            whole = options.chapter is None
            width = columns() or _WIDTH
            return await play_through(reader, BOOK, print_answer, width, whole=whole)

    return ExitCode.OK if _until_signal(options, main) else _NO


def _plain(options: argparse.Namespace, player: Player, wish: StageHost | None) -> int:
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.playing import playing
    from pyvmm.demo.terminal.plain import play
    from pyvmm.demo.terminal.typed_lines import TypedLines

    async def main() -> None:
        lines = TypedLines(0, _show)
        async with playing(player, wish, say_to_user) as reader:
            await reader.begin()
            await play(reader, BOOK, print_answer, lines.ask, columns() or _WIDTH)

    _until_signal(options, main)
    return ExitCode.OK


def _show(prompt: str) -> None:
    """Write a prompt, behind which the reader types."""
    sys.stdout.flush()
    os.write(1, encoded(prompt, sys.stdout.encoding))


def _until_signal(options: argparse.Namespace, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` to its end, or to a signal that ends the command: then all is freed first.

    Raises `KeyboardInterrupt` after one.
    """
    import trio

    from pyvmm.cli.taken_signals import taken_signals

    options.ending_signals.hold()
    interruption: list[int] = []
    failure: BaseException | None = None
    results: list[T] = []

    async def watched() -> None:
        nonlocal failure
        with taken_signals(*ending_signals()) as signals:
            options.ending_signals.raise_held()
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async for number in signals:
                        interruption.append(number)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                try:
                    results.append(await main())
                except Exception as error:  # noqa: BLE001 - raised below, without a group
                    failure = error
                nursery.cancel_scope.cancel()

    trio.run(watched)
    if failure is not None:
        raise failure
    if interruption and not results:
        raise KeyboardInterrupt(f"interrupted by {signal.Signals(interruption[0]).name}")
    return results[0]
