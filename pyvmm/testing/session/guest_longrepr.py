# SPDX-License-Identifier: MIT
"""Failures of guests in the form in which pytest shows assertions of its own.

These classes of pytest's travel between the processes of pytest-xdist, and give the line of the
short summary, JUnit its message, and IDEs a place to go to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from _pytest._code.code import (
    ReprEntry,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
)

from pyvmm.testing.images.source_files import MOST_COLUMNS, SourceFiles
from pyvmm.testing.results.guest_failures import GuestFailure

CONTEXT = 2
"""Lines of the source that are shown before one that failed."""


def failure_repr(
    reason: str,
    failures: Sequence[GuestFailure],
    place: tuple[str, int],
    sources: SourceFiles,
    after: Sequence[str] = (),
) -> ReprExceptionInfo:
    """Representation of a failure.

    `place` is the file and line that it counts for where no assertion tells one; `after` are lines
    that are shown behind it all.
    """
    entries = [_entry(failure, sources) for failure in failures]
    last = failures[-1] if failures else None
    path, line = place
    if last is not None:
        path, line = _shown(last.file, sources), last.line
    is_told = bool(failures) and reason == failures[0].expression
    lines = [*([] if is_told else _marked(reason)), *after]
    crash = ReprFileLocation(path, line, reason)
    if lines or not entries:
        entries.append(ReprEntry(lines, None, None, None if entries else crash, "long"))
    return ReprExceptionInfo(ReprTraceback(entries, None, "long"), crash)


def _entry(failure: GuestFailure, sources: SourceFiles) -> ReprEntry:
    lines = [
        *_source_lines(sources, failure),
        *(line for each in failure.describe() for line in _marked(each)),
    ]
    where = ReprFileLocation(_shown(failure.file, sources), failure.line, "failed in the guest")
    return ReprEntry(lines, None, None, where, "long")


def _marked(text: str) -> list[str]:
    return [f"E       {line}" for line in text.split("\n")]


def _source_lines(sources: SourceFiles, failure: GuestFailure) -> list[str]:
    """The line of the source, marked, and some before it; none where the file is not here."""
    path, number = sources.find(failure.file), failure.line
    lines = [] if path is None else sources.lines(path)
    if not 0 < number <= len(lines):
        return []
    first = max(0, number - 1 - CONTEXT)
    shown = [line[:MOST_COLUMNS].expandtabs(4) for line in lines[first:number]]
    return [*(f"    {line}" for line in shown[:-1]), f">   {shown[-1]}"]


def _shown(file: str, sources: SourceFiles) -> str:
    source = sources.find(file)
    return file if source is None else os.path.relpath(source)
