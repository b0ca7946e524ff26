# SPDX-License-Identifier: MIT
"""Scripts: files of commands, run with the same names at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pyvmm.errors import NoInputError, PyvmmError, SystemCallError, UsageError
from pyvmm.shell.desk import Desk
from pyvmm.shell.failures import line_of_script, lines_of_failure

FAILED = 1
"""Exit code of a script that ended with an error of its own, as Python's."""
_LONGEST = 16 << 20
"""Bytes of a script: a file that is named by mistake may have no end."""
STDIN = "<stdin>"
"""Name of a script that is read from standard input."""


class ScriptRefusedError(UsageError):
    """A script in which something was refused: the line that it stands in, and the refusal."""

    def __init__(self, place: str, refusal: PyvmmError) -> None:
        super().__init__(refusal.attempt, refusal.cause, refusal.remedy)
        self.place = place
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{self.place}: {self.refusal}"


def read_script(path: str | None) -> bytes:
    """Content of the script; None: of standard input, which may not be open.

    Raises `NoInputError`, and `UsageError` where that is too long.
    """
    try:
        if path is not None:
            with open(path, "rb") as file:  # noqa: PTH123 - as it was given
                source = file.read(_LONGEST + 1)
        else:
            source = b"" if sys.stdin is None else sys.stdin.buffer.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        path = path or STDIN
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise NoInputError(f"run {path}", str(cause)) from error
    if len(source) > _LONGEST:
        path = path or STDIN
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
        except BaseException as error:  # noqa: BLE001 - the user's own, told as Python tells it
            if isinstance(error, OSError):
                _require_output()
            _tell("".join(lines_of_failure(error)))
            return FAILED
    return 0


def _require_output() -> None:
    """Raise `SystemCallError` where standard output takes no more: no fault of the script's.

    What could not be written need not be in its buffer any more. Then writing nothing is refused by
    a descriptor that takes nothing, and by a device that is full; a full disk takes it.
    """
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"")
    except (ValueError, AttributeError):  # The script's own, which it has closed, or no stream.
        return
    except OSError as error:
        cause = error.strerror or str(error)
        raise SystemCallError("write to standard output", error.errno or 0, cause) from error


def exit_code(stop: SystemExit) -> int:
    """The code that Python would end with; a message is told to standard error."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    _tell(f"{stop.code}\n")
    return FAILED


def _tell(text: str) -> None:
    """Write to standard error, which a script may have closed: then its exit code says it all."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)


@contextmanager
def _as_main(path: str, arguments: Sequence[str]) -> Iterator[None]:
    """Have `sys` as a script expects it; what it puts in place of streams goes with it."""
    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    sys.argv = [path, *arguments]
    try:
        yield
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
