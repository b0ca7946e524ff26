# SPDX-License-Identifier: MIT
"""Scripts: files of commands, run with the same names at hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyvmm.errors import NoInputError, PyvmmError, SystemCallError, UsageError
from pyvmm.shell.desk import Desk
from pyvmm.shell.failures import line_of_script, lines_of_failure

FAILED = 1
"""Exit code of a script that ended with an error of its own, as Python's."""
_LONGEST = 16 << 20
"""Bytes of a script: a file that is named by mistake may have no end."""


class ScriptRefusedError(UsageError):
    """A script in which something was refused: the line that it stands in, and the refusal."""

    def __init__(self, place: str, refusal: PyvmmError) -> None:
        super().__init__(refusal.attempt, refusal.cause, refusal.remedy)
        self.place = place
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{self.place}: {self.refusal}"


def read_script(path: str) -> bytes:
    """Content of the script. Raises `NoInputError`, and `UsageError` where that is too long."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as it was given
            source = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise NoInputError(f"run {path}", str(cause)) from error
    if len(source) > _LONGEST:
        raise UsageError(f"run {path}", f"it is longer than {_LONGEST >> 20} MiB, and no script")
    return source


def run_script(desk: Desk, source: bytes, path: str, arguments: Sequence[str]) -> int:
    """Run `source` with the desk's names; `sys.argv` is the path and `arguments` meanwhile.

    The exit code: 0; that of `SystemExit`; 1 where an error was not caught, which standard error
    is told of. Raises `PyvmmError` for a refusal that was not caught, with the script's line.
    """
    desk.names["__file__"] = path
    with _as_main(path, arguments):
        try:
            exec(compile(source, path, "exec", dont_inherit=True), desk.names)
        except SystemExit as stop:
            return exit_code(stop)
        except PyvmmError as refusal:
            line = line_of_script(refusal, path)
            if line is None:
                raise
            told = ScriptRefusedError(f"{path}:{line}", refusal)
            told.exit_code = refusal.exit_code  # type: ignore[misc]
            raise told from refusal
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 - the user's own, told as Python tells it
            if isinstance(error, OSError):
                _require_output()
            sys.stderr.write("".join(lines_of_failure(error)))
            return FAILED
    return 0


def _require_output() -> None:
    """Raise `SystemCallError` where standard output takes no more: no fault of the script's."""
    try:
        sys.stdout.flush()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SystemCallError("write to standard output", error.errno or 0, cause) from error


def exit_code(stop: SystemExit) -> int:
    """The code that Python would end with; a message is told to standard error."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    sys.stderr.write(f"{stop.code}\n")
    return FAILED


@contextmanager
def _as_main(path: str, arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [path, *arguments]
    try:
        yield
    finally:
        sys.argv = before
