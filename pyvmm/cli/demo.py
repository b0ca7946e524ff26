# SPDX-License-Identifier: MIT
"""``pyvmm demo``: private guest memory, set up step by step on the real thing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyvmm.cli import demo_web
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pyvmm.demo.telling.chapter import Chapter
    from pyvmm.demo.telling.outcomes import StageHost

_NO = 1
"""Exit code where a question had no answer that came true, or an exercise is not solved."""
_WORDS = """\
Without a terminal the chapter is played through, or all of them if none is named. Ends with 0, with
1 where of a question's answers none came true on this host, or an exercise was not solved.
"""


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
    parser.add_argument(
        "--list", action="store_true", help="list the chapters and the exercises, and end"
    )
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
    parser.add_argument(
        "--exercise",
        metavar="N",
        help="solve an exercise: acts are typed, or come as lines of standard input",
    )
    demo_web.add_arguments(parser)
    parser.add_argument("--stage-process", action="store_true", help=argparse.SUPPRESS)


def command(options: argparse.Namespace) -> int:
    """Play: asks on a terminal, plays through without one."""
    if options.stage_process:
        from pyvmm.demo.house import process

        return process.main()
    options.early = None
    if options.list or options.host == "lab" or demo_web.is_asked_for(options):
        return _command(options)
    from pyvmm.demo.house.early import EarlyProcess

    with EarlyProcess() as options.early:
        return _command(options)


def _command(options: argparse.Namespace) -> int:
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.telling.beginning import Telling
    from pyvmm.demo.telling.links import parse_link
    from pyvmm.demo.telling.outcomes import StageHost

    if options.list:
        return _list()
    begin = (BOOK.chapters[0].id, "")
    if options.chapter is not None:
        begin = parse_link(options.chapter, BOOK)
    wish = None if options.host == "auto" else StageHost(options.host)
    if demo_web.is_asked_for(options) and options.exercise is not None:
        raise UsageError("open an exercise", "it is told in a terminal", "without --web")
    if options.web:
        from pyvmm.cli.until_signal import until_signal

        until_signal(options.ending_signals, demo_web.server(options, Telling(BOOK, *begin, wish)))
        return ExitCode.OK
    if options.exercise is not None:
        return _exercise(options, wish)
    if options.html is not None:
        if begin[1]:
            raise UsageError("write a hand-out", "a hand-out tells a whole chapter", begin[0])
        chapters = [one for one in BOOK.chapters if options.chapter is None or one.id == begin[0]]
        return _handout(options, chapters, wish)
    from pyvmm.cli import demo_terminal

    return demo_terminal.tell(options, BOOK, begin, wish)


def _list() -> int:
    from pyvmm.demo.chapters import BOOK

    width = max(len(one.id) for one in BOOK.chapters)
    lines = [f"{one.id:<{width}}  {one.title}" for one in BOOK.chapters]
    lines += [f"--exercise {one.number:<{width - 11}}  {one.id}" for one in BOOK.exercises]
    print_answer("\n".join(lines))
    return ExitCode.OK


def _exercise(options: argparse.Namespace, wish: StageHost | None) -> int:
    from pyvmm.cli import demo_terminal
    from pyvmm.demo.chapters import BOOK

    if options.chapter is not None or options.html is not None:
        raise UsageError("open an exercise", "it is no chapter's and no page", "--exercise alone")
    return demo_terminal.exercise(options, BOOK, wish)


def _handout(options: argparse.Namespace, chapters: list[Chapter], wish: StageHost | None) -> int:
    from pyvmm.cli.demo_handout import Handout
    from pyvmm.cli.until_signal import until_signal
    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.page.run_through import run_through
    from pyvmm.demo.playing import playing
    from pyvmm.demo.telling.player import Player

    handout = Handout(options.html)

    async def main() -> None:
        player = Player(BOOK, chapters[0].id)
        async with playing(player, wish, early=options.early) as reader:
            await reader.begin()
            handout.told = await run_through(reader, chapters)

    until_signal(options.ending_signals, main)
    return ExitCode.OK if handout.write() else _NO
