# SPDX-License-Identifier: MIT
"""Standard output of the commands that print an answer; a guest's console goes other ways."""

from __future__ import annotations

import sys

from pyvmm.errors import SystemCallError


def print_answer(text: str) -> None:
    """Write `text`, a line or more without the last newline, and see that it arrives.

    Raises `BrokenPipeError` where nobody reads, `SystemCallError` for all that else goes wrong.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(error) from error


def output_error(error: OSError) -> SystemCallError:
    """What to say of an answer that could not be written."""
    return SystemCallError(
        "write to standard output", error.errno or 0, error.strerror or str(error)
    )
