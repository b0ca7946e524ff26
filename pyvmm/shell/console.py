# SPDX-License-Identifier: MIT
"""The prompt: Python's own console, with the names of a desk, completion and a map of memory."""

from __future__ import annotations

import code
import sys
from types import CodeType

from pyvmm.shell.desk import Desk, ShowMap
from pyvmm.shell.failures import lines_of_failure


class Console(code.InteractiveConsole):
    """Reads commands and runs them; `SystemExit` ends it."""

    def __init__(self, desk: Desk, show: ShowMap) -> None:
        super().__init__(desk.names, "<shell>")
        self._desk = desk
        self._show = show

    def runcode(self, code: CodeType) -> None:
        """Run one command, then show the map. Raises `SystemExit` for a command that does."""
        super().runcode(code)
        self._desk.after_command(self._show)

    def showtraceback(self) -> None:
        """Say what failed: the user's own lines, none of ours."""
        error = sys.exc_info()[1]
        if error is not None:
            self.write("".join(lines_of_failure(error)))


def prompt(desk: Desk, show: ShowMap, banner: str) -> None:
    """Read commands from the terminal until its end. Raises `SystemExit` where a command does."""
    from pyvmm.shell.completing import completing

    print(banner)
    desk.first_map(show)
    with completing(desk.names):
        Console(desk, show).interact("", exitmsg="")
