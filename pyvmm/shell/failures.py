# SPDX-License-Identifier: MIT
"""Errors of a user's own commands, told by the user's own lines."""

from __future__ import annotations

import code
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pyvmm.errors import PyvmmError

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_CONSOLE = str(code.__file__)
_IPYTHON = f"{sysconfig.get_path('purelib')}{os.sep}IPython{os.sep}"


def lines_of_failure(error: BaseException) -> list[str]:
    """A traceback without frames of this package; of a refusal at the prompt, its line alone."""
    summary = traceback.TracebackException(type(error), error, error.__traceback__)
    for one in _chain(summary):
        one.stack[:] = [frame for frame in one.stack if is_users(frame.filename)]
    if isinstance(error, PyvmmError):
        summary.__cause__ = summary.__context__ = None
        if len(summary.stack) <= 1 and all(_is_prompt(one.filename) for one in summary.stack):
            return [f"{type(error).__name__}: {error}\n"]
    return list(summary.format())


def leave_out_own_frames(error: BaseException) -> None:
    """Take frames of this package out of the tracebacks of `error` and of what it came of."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or any(one is each for each in seen):
            continue
        seen.append(one)
        one.__traceback__ = _users_part(one.__traceback__)
        left += [one.__cause__, one.__context__]


def _users_part(traceback_: TracebackType | None) -> TracebackType | None:
    frames = []
    while traceback_ is not None:
        if is_users(traceback_.tb_frame.f_code.co_filename):
            frames.append(traceback_)
        traceback_ = traceback_.tb_next
    kept = None
    for one in reversed(frames):
        kept = TracebackType(kept, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return kept


def line_of_script(error: BaseException, path: str) -> int | None:
    """The last line, from 1 on, of the script at `path` that `error` went through, if any."""
    found = None
    at: TracebackType | None = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == path:
            found = at.tb_lineno
        at = at.tb_next
    return found


def is_users(file: str) -> bool:
    """Tell whether a frame of code in `file` is none of ours, nor of what ran the user's."""
    return not file.startswith((_PACKAGE, _CONSOLE, _IPYTHON))


def _is_prompt(file: str) -> bool:
    """Tell whether code was typed at the prompt, ours or IPython's."""
    return file == "<shell>" or file.startswith("<ipython-input-")


def _chain(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    seen: list[traceback.TracebackException] = [summary]
    while seen:
        one = seen.pop()
        yield one
        seen += [next_ for next_ in (one.__cause__, one.__context__) if next_ is not None]
