# SPDX-License-Identifier: MIT
"""The prompt where IPython is installed: its own, with the same names and the same map."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from pyvmm.errors import PyvmmError
from pyvmm.shell.completing import Completer
from pyvmm.shell.desk import Desk, ShowMap
from pyvmm.shell.failures import leave_out_own_frames, lines_of_failure


def has_ipython() -> bool:
    """Tell whether it is installed, without loading it."""
    return find_spec("IPython") is not None


def prompt(desk: Desk, show: ShowMap, banner: str) -> None:
    """Read commands until the end of input, or until ``exit``."""
    shell = make_shell(desk, show)
    print(banner)
    desk.first_map(show)
    shell.mainloop()


def make_shell(desk: Desk, show: ShowMap) -> Any:
    """An IPython shell whose name space is the desk's.

    Attributes are completed by what objects say that they have (``dir``), so that declared ioctls
    and flags are, and in a call of an ioctl its fields. A refusal is told in one line, and a
    traceback is without our own frames.
    """
    from IPython.terminal.interactiveshell import TerminalInteractiveShell
    from traitlets.config import Config

    config = Config()
    config.TerminalInteractiveShell.confirm_exit = False
    config.Completer.use_jedi = False
    shell: Any = TerminalInteractiveShell.instance(config=config, user_ns=desk.names)

    def told(
        _shell: object,
        kind: type[BaseException],
        error: BaseException,
        _traceback: TracebackType | None,
        tb_offset: int | None = None,  # noqa: ARG001 - IPython gives it by name
    ) -> None:
        if isinstance(error, PyvmmError | KeyboardInterrupt):
            sys.stderr.write("".join(lines_of_failure(error)))
            return
        leave_out_own_frames(error)
        shell.showtraceback((kind, error, error.__traceback__), tb_offset=0)

    def fields(completer: Any, _text: str) -> list[str]:
        words = Completer(desk.names).matches(completer.text_until_cursor)
        return [one for one in words if one.endswith("=")]

    shell.set_custom_exc((Exception, KeyboardInterrupt), told)
    shell.set_custom_completer(fields)
    shell.events.register("post_run_cell", lambda _result: desk.after_command(show))
    return shell
