# SPDX-License-Identifier: MIT
"""Refusals that a program of a few lines does not catch: a line and an exit code, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyvmm.errors import ExitCode, PyvmmError
from pyvmm.visible import visible


@contextmanager
def short_errors() -> Iterator[None]:
    """End the program as the command ``pyvmm`` ends where something is refused in the block.

    Standard error gets one line, with the program's name before it. Raises `SystemExit`: with the
    error's `ExitCode` for a `PyvmmError`, with 130 for Ctrl-C.
    """
    try:
        yield
    except PyvmmError as error:
        _tell(str(error))
        raise SystemExit(int(error.exit_code)) from error
    except KeyboardInterrupt as interruption:
        _tell("interrupted")
        raise SystemExit(int(ExitCode.INTERRUPTED)) from interruption


def _tell(text: str) -> None:
    with suppress(OSError):  # Then the exit code has to say it all.
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {visible(text)}\n")
