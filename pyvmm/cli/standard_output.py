# SPDX-License-Identifier: MIT
"""Standard output of the commands that print an answer; a guest's console goes other ways."""

from __future__ import annotations

import os
import select
import sys

from pyvmm.errors import SystemCallError

_WIDTH_WITHOUT_TERMINAL = 140
"""Columns of what is folded, where neither a terminal nor COLUMNS tells."""

_DIGITS = 4
"""Of COLUMNS: what has more is no width."""


def print_answer(text: str) -> None:
    """Write `text`, a line or more without the last newline, and see that it arrives.

    Waits where standard output does not block and is full. Letters that its encoding does not have
    are replaced (`encoded`). Raises `BrokenPipeError` where nobody reads, `SystemCallError` for all
    else that goes wrong, and that standard output is closed is some of it.
    """
    try:
        sys.stdout.flush()
        try:
            fd = sys.stdout.fileno()
        except OSError:  # No file: who called us in the same process wants to have it.
            sys.stdout.write(text + "\n")
            return
        _write_all(fd, encoded(text + "\n", sys.stdout.encoding))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(error) from error


def columns() -> int | None:
    """Width for tables: the terminal's, otherwise that of COLUMNS; None without both."""
    if sys.stdout.isatty():
        import shutil

        return shutil.get_terminal_size().columns
    told = os.environ.get("COLUMNS", "")
    is_number = told.isascii() and told.isdigit() and len(told) <= _DIGITS
    return (int(told) if is_number else 0) or None


def folding_width() -> int:
    """Columns to fold text in: `columns`, or a width that suits a file."""
    return columns() or _WIDTH_WITHOUT_TERMINAL


def unpadded(text: str) -> str:
    """Tables without the blanks that fill up their lines; they are harmless on a terminal only."""
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


def output_error(error: OSError) -> SystemCallError:
    """Make the error for an answer that could not be written."""
    return SystemCallError(
        "write to standard output", error.errno or 0, error.strerror or str(error)
    )


def encoded(text: str, encoding: str | None) -> bytes:
    """`text` in a stream's `encoding` (UTF-8 where it has none), letter for letter.

    Where it lacks a letter, the lines and bars of tables become ASCII ones, a byte of a name that
    is no text is written out (``\\xff``), and all else becomes a question mark.
    """
    encoding = encoding or "utf-8"
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        from pyvmm.cli.replaced_letters import replaced

        return replaced(text, encoding).encode(encoding)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
