# SPDX-License-Identifier: MIT
"""``pyvmm demo --web``: the demo as a page on loopback."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pyvmm.cli.standard_error import say_to_user
from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import HostLacksError, UsageError

if TYPE_CHECKING:
    from pyvmm.demo.telling.beginning import Telling
    from pyvmm.demo.web.site import Site

_LARGEST_PORT = 65535
_ATTEMPT = "show the demo as a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that are about the page."""
    parser.add_argument(
        "--web", action="store_true", help="show it as a page; prints the URL to open"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="with --web: the port of 127.0.0.1 (default: any)"
    )
    parser.add_argument(
        "--lecture",
        action="store_true",
        help="with --web: a teacher's steps are everybody's; prints two URLs",
    )


def is_asked_for(options: argparse.Namespace) -> bool:
    """True for a page. Raises `UsageError` for options that need one, and for an odd port."""
    if options.web:
        if getattr(options, "html", None) is not None:
            raise UsageError(_ATTEMPT, "--html writes a file instead", "use one of them")
        if options.port is not None and not 0 < options.port <= _LARGEST_PORT:
            raise UsageError(_ATTEMPT, f"{options.port} is no port", f"1 to {_LARGEST_PORT}")
        return True
    for name, given in (("--port", options.port is not None), ("--lecture", options.lecture)):
        if given:
            raise UsageError(_ATTEMPT, f"{name} goes with --web")
    return False


def server(options: argparse.Namespace, telling: Telling) -> Callable[[], Awaitable[None]]:
    """The function that serves until it is cancelled. Raises `HostLacksError` without the extra."""
    try:
        from pyvmm.demo.web.listener import serve, urls
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in {"h11", "websockets"}:
            raise
        cause = f"{name} is not installed"
        raise HostLacksError(_ATTEMPT, cause, "pip install 'pyvmm[web]'") from None

    def tell(site: Site) -> None:
        print_answer(urls(site, is_lecture=options.lecture))

    async def main() -> None:
        port = options.port or 0
        await serve(telling, port, is_lecture=options.lecture, tell=tell, say=say_to_user)

    return main
