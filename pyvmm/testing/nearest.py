# SPDX-License-Identifier: MIT
"""The nearest miss: what a guest said that is like what a test waited for. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from pyvmm.testing.patterns import Pattern
from pyvmm.testing.transcript import Transcript

_LOOKED_AT = 1 << 16
"""Bytes of the end of the output that are compared."""
_MOST_LINES = 200
_ALIKE = 0.6
"""Ratio (difflib's) from which on two lines are alike."""
_SHORTEST = 3
"""Letters of a beginning that are worth telling."""


def nearest(patterns: Sequence[Pattern], transcript: Transcript, cursor: int) -> str:
    """Find what came nearest to one of `patterns` after `cursor`: a line, or ""."""
    return next((hint for pattern in patterns for hint in _hints(pattern, transcript, cursor)), "")


def _hints(pattern: Pattern, transcript: Transcript, cursor: int) -> Iterator[str]:
    """Hints for one pattern, the best first."""
    said = transcript.since(max(cursor, transcript.end - _LOOKED_AT))
    before = transcript.between(max(0, cursor - _LOOKED_AT), cursor)
    if isinstance(pattern, re.Pattern):
        if _search(pattern, before):
            yield f"{pattern!r} matches what was said before the last match"
        if _search(pattern, said):
            return  # It matches, but what comes next could change that.
        if not pattern.flags & re.IGNORECASE and _search(
            re.compile(pattern.pattern, pattern.flags | re.IGNORECASE), said
        ):
            yield f"{pattern!r} matches but for upper and lower case"
        return
    wanted = pattern.encode("utf-8", "surrogateescape") if isinstance(pattern, str) else pattern
    if wanted in before:
        yield f"{pattern!r} was said before the last match"
    if re.search(re.escape(wanted), said, re.IGNORECASE):
        yield f"{pattern!r} was said in other upper and lower case"
    if b"\n" in wanted and wanted.replace(b"\n", b"\r\n") in said:
        yield "it was said with lines that end in \\r\\n"
    if _would_match_as_regex(wanted, said):
        yield f"text is taken literally; re.compile({pattern!r}) matches"
    yield from _alike(wanted, said)


def _search(pattern: re.Pattern[str] | re.Pattern[bytes], said: bytes) -> bool:
    if isinstance(pattern.pattern, str):
        return re.search(pattern, said.decode("utf-8", "surrogateescape")) is not None
    return re.search(pattern, said) is not None


def _would_match_as_regex(wanted: bytes, said: bytes) -> bool:
    if not re.search(rb"[.*+?^$\[\](){}|\\]", wanted):
        return False
    try:
        pattern = re.compile(wanted)
    except (re.error, OverflowError):
        return False
    # Short lines only: what is no regular expression may be a bad one.
    return any(
        pattern.search(line) for line in said.splitlines()[-_MOST_LINES:] if len(line) < _MOST_LINES
    )


def _alike(wanted: bytes, said: bytes) -> Iterator[str]:
    lines = list(dict.fromkeys(line.strip() for line in said.splitlines()[-_MOST_LINES:]))
    texts = {line[: 2 * len(wanted) + 80].decode("utf-8", "backslashreplace") for line in lines}
    target = wanted.decode("utf-8", "backslashreplace").strip()
    for text in difflib.get_close_matches(target, sorted(texts), 1, _ALIKE):
        yield f"the line {text!r}"
    shortest, longest = 0, len(wanted)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if wanted[:middle] in said:
            shortest = middle
        else:
            longest = middle - 1
    if shortest >= _SHORTEST:
        place = said.rindex(wanted[:shortest])
        yield f"{said[place : place + len(wanted) + 8]!r}, which begins as it"
