# SPDX-License-Identifier: MIT
"""``pyvmm demo``: private guest memory, set up step by step on the real thing."""

from __future__ import annotations

import argparse
import os
import sys

from pyvmm.cli.standard_output import columns, print_answer
from pyvmm.errors import ExitCode

_WIDTH = 80
_NONE_TRUE = 1
"""Exit code where of a question's answers none came true on this host."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "chapter",
        nargs="?",
        metavar="CHAPTER[/STEP]",
        help="where to begin (default: at the beginning)",
    )
    parser.add_argument("--list", action="store_true", help="list the chapters, and end")
    parser.add_argument(
        "--host",
        choices=("auto", "kvm", "model"),
        default="auto",
        help="what carries the steps out (default: this machine's KVM, or the model)",
    )


def command(options: argparse.Namespace) -> int:
    """Play: asks on a terminal, plays the chapter through without one."""
    import trio

    from pyvmm.demo.chapters import BOOK
    from pyvmm.demo.playing import playing
    from pyvmm.demo.telling.links import parse_link
    from pyvmm.demo.telling.outcomes import StageHost
    from pyvmm.demo.telling.player import Player
    from pyvmm.demo.terminal.plain import play

    if options.list:
        width = max(len(one.id) for one in BOOK.chapters)
        print_answer("\n".join(f"{one.id:<{width}}  {one.title}" for one in BOOK.chapters))
        return ExitCode.OK
    begin = (BOOK.chapters[0].id, "")
    if options.chapter is not None:
        begin = parse_link(options.chapter, BOOK)
    wish = None if options.host == "auto" else StageHost(options.host)
    asks = os.isatty(0) and os.isatty(1)

    async def main() -> bool:
        async with playing(Player(BOOK, *begin), wish) as reader:
            await reader.begin()
            ask = _ask if asks else None
            return await play(reader, BOOK, print_answer, ask, columns() or _WIDTH)

    return ExitCode.OK if trio.run(main) else _NONE_TRUE


async def _ask(prompt: str) -> str | None:
    import trio

    sys.stdout.write(prompt)
    sys.stdout.flush()
    await trio.lowlevel.wait_readable(0)
    line = os.read(0, 4096)
    return line.decode("utf-8", "replace").rstrip("\n") if line else None
