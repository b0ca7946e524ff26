# SPDX-License-Identifier: MIT
"""Patterns that a test waits for in a guest's output, and searching for them as it comes. Pure.

Of several the one counts that is complete first. Text is searched once and never again, but for an
overlap (`REACH`); a regular expression is searched for in all of it whenever that has doubled, and
when whoever waits has time (`Search.look`, `thorough`), so that longer matches are found, too.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from pyvmm.errors import UsageError
from pyvmm.testing.failures import is_told
from pyvmm.testing.transcript import Transcript

__tracebackhide__ = is_told

Pattern: TypeAlias = str | bytes | re.Pattern[str] | re.Pattern[bytes]
"""Text (in UTF-8) or bytes, literally; or a compiled regular expression, searched for."""
Patterns: TypeAlias = Pattern | Sequence[Pattern]

REACH = 4096
"""Letters (bytes) before what is new in which a match of a regular expression may begin."""
_COMMON = "0a \n\r.,:;-_)]}>\"'/\\\t"
_LETTERS = tuple(dict.fromkeys(_COMMON + "".join(map(chr, range(128))) + "é一́\udcff"))
_BYTES = tuple(dict.fromkeys((*_COMMON.encode(), *range(256))))
"""Continuations that an open end of a match is tried with."""


@dataclass(frozen=True, slots=True)
class Match:
    """Text that matched: `data`; `before`, what came between the last match and it.

    `index` is the place of `pattern` among several. ``match[1]`` and ``match["name"]`` are groups
    of a regular expression, text or bytes as that is; ``match[0]`` is all of it. `start` and `end`
    count bytes since the boot. A byte that is no UTF-8 is a lone surrogate in text (PEP 383).
    """

    index: int
    pattern: Pattern
    data: bytes
    before: bytes
    start: int
    end: int
    groups: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def numbered(self, index: int) -> Match:
        """The same, as one of several patterns."""
        return replace(self, index=index)

    @property
    def text(self) -> str:
        """`data` as text."""
        return self.data.decode("utf-8", "surrogateescape")

    def __getitem__(self, group: int | str) -> Any:
        """Group `group`, by its number or name; None where it took no part. Raises `IndexError`."""
        if group == 0:
            kind = self.pattern.pattern if isinstance(self.pattern, re.Pattern) else self.pattern
            return self.text if isinstance(kind, str) else self.data
        if isinstance(group, str) and group in self.named:
            return self.named[group]
        if isinstance(group, str) or not 0 < group <= len(self.groups):
            raise IndexError(f"{self.pattern!r} has no group {group!r}")
        return self.groups[group - 1]


@dataclass(frozen=True, slots=True)
class _Span:
    """Place of a match in the transcript, in bytes since the boot, and its groups."""

    start: int
    end: int
    groups: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


class _Sought(ABC):
    """One pattern that is searched for from a cursor on."""

    is_behind = False
    """There may be a longer match than what was looked for."""
    has_open_end = False
    """There is a match, which more output could still change."""

    @abstractmethod
    def look(self, transcript: Transcript, *, thorough: bool) -> _Span | None:
        """Look for the first match."""


class _Literal(_Sought):
    def __init__(self, wanted: bytes, cursor: int) -> None:
        self._wanted = wanted
        self._from = cursor

    def look(self, transcript: Transcript, *, thorough: bool) -> _Span | None:  # noqa: ARG002
        found = transcript.find(self._wanted, self._from)
        if found < 0:
            self._from = max(self._from, transcript.end - len(self._wanted) + 1)
            return None
        return _Span(found, found + len(self._wanted))


class _Regex(_Sought):
    """Search for a regular expression; places are letters (or bytes) of a subject that grows."""

    def __init__(self) -> None:
        self._searched = 0
        self._wholly = 0
        self._held: int | None = None

    def _begin(self, size: int, *, thorough: bool) -> int:
        """Place to search from, in a subject of `size`."""
        if thorough or size >= 2 * self._wholly:
            self._wholly = max(size, REACH)
            begin = 0
        else:
            begin = max(0, self._searched - REACH)
        self.is_behind = begin > 0
        return begin if self._held is None else min(begin, self._held)

    def _note(
        self, size: int, found: re.Match[Any] | None, *, is_open: bool, skipped: int = 0
    ) -> None:
        """Remember how far it was searched, and where a match begins that does not count yet."""
        self._searched = size
        self._held = found.start() + skipped if found is not None and is_open else None
        self.has_open_end = is_open

    def forget(self, letters: int) -> None:
        """As many letters at the beginning of the subject are there no more."""
        self._searched = max(0, self._searched - letters)
        self._wholly = max(0, self._wholly - letters)
        self._held = None if self._held is None else max(0, self._held - letters)


class _BytesRegex(_Regex):
    def __init__(self, pattern: re.Pattern[bytes], cursor: int) -> None:
        super().__init__()
        self._pattern = pattern
        self._cursor = cursor

    def look(self, transcript: Transcript, *, thorough: bool) -> _Span | None:
        if transcript.start > self._cursor:
            self.forget(transcript.start - self._cursor)
            self._cursor = transcript.start
        # What is matched in must not grow meanwhile, so that both views are gone at the end.
        with memoryview(transcript.recent) as whole:
            with whole[self._cursor - transcript.start :] as subject:
                return self._look_in(subject, transcript.has_ended, thorough=thorough)

    def _look_in(self, subject: memoryview, ended: bool, *, thorough: bool) -> _Span | None:
        found = self._pattern.search(subject, self._begin(len(subject), thorough=thorough))
        touches = found is not None and found.end() == len(subject) and not ended
        is_open = touches and found is not None and _is_open_in_bytes(self._pattern, subject, found)
        self._note(len(subject), found, is_open=is_open)
        if found is None or is_open:
            return None
        at = self._cursor
        return _Span(at + found.start(), at + found.end(), found.groups(), found.groupdict())


class _TextRegex(_Regex):
    def __init__(self, pattern: re.Pattern[str], cursor: int) -> None:
        super().__init__()
        self._pattern = pattern
        self._text = _Decoded(cursor)

    def look(self, transcript: Transcript, *, thorough: bool) -> _Span | None:
        text = self._text
        self.forget(text.take(transcript))
        begin = self._begin(text.size, thorough=thorough)
        skipped, subject = text.last(text.size - begin)
        found = self._pattern.search(subject, begin - skipped)
        touches = found is not None and found.end() == len(subject) and not transcript.has_ended
        is_open = touches and found is not None and _is_open_in_text(self._pattern, subject, found)
        self._note(text.size, found, is_open=is_open, skipped=skipped)
        if found is None or is_open:
            return None
        start, end = (text.offset(skipped + place) for place in found.span())
        return _Span(start, end, found.groups(), found.groupdict())


class _Decoded:
    """Output from a cursor on as text. Parts are joined when they are needed."""

    def __init__(self, cursor: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._start = cursor
        self._taken = cursor
        self._parts: list[str] = []
        self.size = 0

    def take(self, transcript: Transcript) -> int:
        """Decode what has come; return how many letters have been dropped at the beginning."""
        new = transcript.since(self._taken)
        self._taken = transcript.end
        part = self._decoder.decode(new, transcript.has_ended)
        self.size += len(part)
        if self._parts and len(self._parts[-1]) < REACH:
            self._parts[-1] += part
        elif part:
            self._parts.append(part)
        dropped = 0
        while len(self._parts) > 1 and self._start + 4 * len(self._parts[0]) < transcript.start:
            first = self._parts.pop(0)
            self._start += len(_encoded(first))
            dropped += len(first)
        self.size -= dropped
        return dropped

    def last(self, letters: int) -> tuple[int, str]:
        """So many letters of the end, and `REACH` more; and the count of those before them."""
        wanted = letters + REACH
        have = 0
        parts: list[str] = []
        for part in reversed(self._parts):
            if have >= wanted:
                break
            parts.append(part[have - wanted :])
            have += len(parts[-1])
        return self.size - have, "".join(reversed(parts))

    def offset(self, letter: int) -> int:
        """Offset in bytes since the boot of a letter."""
        return self._start + len(_encoded("".join(self._parts)[:letter]))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _spans(found: re.Match[Any]) -> list[tuple[int, int]]:
    return [found.span(group) for group in range(found.re.groups + 1)]


def _is_changed(spans: Sequence[tuple[int, int]], again: re.Match[Any] | None, shift: int) -> bool:
    """True where a match is not `again` what it was, in a subject that is `shift` shorter."""
    if again is None:
        return True
    moved = [
        (start + shift, end + shift) if start >= 0 else (start, end) for start, end in _spans(again)
    ]
    return moved != spans


def _is_open_in_bytes(
    pattern: re.Pattern[bytes], subject: memoryview, found: re.Match[bytes]
) -> bool:
    """True where another byte behind the match could change it."""
    cut = max(0, found.start() - REACH)
    probe = bytearray(subject[cut:]) + b"\0"
    spans = _spans(found)
    for byte in _BYTES:
        probe[-1] = byte
        if _is_changed(spans, pattern.search(probe, found.start() - cut), cut):
            return True
    return False


def _is_open_in_text(pattern: re.Pattern[str], subject: str, found: re.Match[str]) -> bool:
    """True where another letter behind the match could change it."""
    cut = max(0, found.start() - REACH)
    near = subject[cut:]
    spans = _spans(found)
    begin = found.start() - cut
    return any(_is_changed(spans, pattern.search(near + one, begin), cut) for one in _LETTERS)


def as_patterns(patterns: Patterns) -> tuple[Pattern, ...]:
    """One or several, checked. Raises `UsageError` for what is none or matches nothing at all."""
    if isinstance(patterns, (str, bytes, re.Pattern)):
        several: tuple[Pattern, ...] = (patterns,)
    elif isinstance(patterns, (list, tuple)):
        several = tuple(patterns)
    else:  # Types are not checked everywhere.
        raise _refused(patterns, "a pattern is text, bytes or a compiled regular expression")
    for one in several:
        if isinstance(one, re.Pattern):
            empty = one.pattern[:0]
            if one.search(empty) is not None:  # type: ignore[arg-type]
                raise _refused(one, "it matches where nothing is said at all")
        elif not isinstance(one, (str, bytes)):
            raise _refused(one, "a pattern is text, bytes or a compiled regular expression")
        elif not one:
            raise _refused(one, "it matches where nothing is said at all")
    return several


def _refused(pattern: object, cause: str) -> UsageError:
    return UsageError(f"expect {pattern!r}", cause)


def _sought(pattern: Pattern, cursor: int) -> _Sought:
    if isinstance(pattern, str):
        return _Literal(_encoded(pattern), cursor)
    if isinstance(pattern, bytes):
        return _Literal(pattern, cursor)
    if isinstance(pattern.pattern, str):
        return _TextRegex(pattern, cursor)
    return _BytesRegex(pattern, cursor)


@dataclass(frozen=True, slots=True)
class Hit:
    """The first match of a search; `is_forbidden`: of a pattern that must not match."""

    match: Match
    is_forbidden: bool


class Search:
    """Search for the first of several patterns from the offset `cursor` on."""

    def __init__(
        self, wanted: Sequence[Pattern], forbidden: Sequence[Pattern], cursor: int
    ) -> None:
        self._cursor = cursor
        # Where two are complete at once, what is forbidden counts, then the one named first.
        self._all = [
            (index, is_forbidden, pattern, _sought(pattern, cursor))
            for is_forbidden, patterns in ((True, forbidden), (False, wanted))
            for index, pattern in enumerate(patterns)
        ]

    def look(self, transcript: Transcript, *, thorough: bool = False) -> Hit | None:
        """Look at what has come since the last time; at all of it where it is to be `thorough`."""
        best: tuple[int, bool, Pattern, _Span] | None = None
        for index, is_forbidden, pattern, sought in self._all:
            span = sought.look(transcript, thorough=thorough)
            if span is not None and (best is None or span.end < best[3].end):
                best = index, is_forbidden, pattern, span
        if best is None:
            return None
        index, is_forbidden, pattern, span = best
        match = Match(
            index,
            pattern,
            transcript.between(span.start, span.end),
            transcript.between(self._cursor, span.start),
            span.start,
            span.end,
            span.groups,
            span.named,
        )
        return Hit(match, is_forbidden)

    @property
    def is_behind(self) -> bool:
        """True where a thorough look may find what the others could not."""
        return any(sought.is_behind for *_, sought in self._all)

    def open_ends(self) -> Iterator[Pattern]:
        """Patterns that match right at the end of what has come, where more could change it."""
        return (pattern for _, _, pattern, sought in self._all if sought.has_open_end)
