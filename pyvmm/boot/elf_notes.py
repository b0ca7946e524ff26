# SPDX-License-Identifier: MIT
"""ELF notes (gABI chapter 5, "Note Section"), from whatever bytes a PT_NOTE segment has.

The gABI pads to 4 bytes in 32-bit files and to 8 in 64-bit ones; toolchains pad to 4 in both, but
for ``.note.gnu.property``; and p_align says either, whatever the notes do. So the notes themselves
say it: 4, unless only 8 makes sense of them; or now one and now the other, where a linker script
put sections of both kinds into one segment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_NOTE_BYTES = 1 << 18
"""Limit of the bytes read of one note segment; Linux has about 500 bytes of notes."""

_HEADER = struct.Struct("<III")
_STEP = 4
"""Every note begins at a multiple of it."""


class Note(NamedTuple):
    """One note; `name` is without its terminating zero.

    `is_cut`: it claims more bytes than its segment has, and `descriptor` is empty.
    """

    name: bytes
    type: int
    descriptor: bytes
    is_cut: bool = False


class NoteSegment(NamedTuple):
    """The notes of a segment; `damage` is the offset in it from where on it makes no sense."""

    notes: tuple[Note, ...]
    damage: int | None = None


class _Extent(NamedTuple):
    """Offsets of a note: its header, its descriptor, the end of that, and what comes next.

    A gap between two notes has its descriptor at its header.
    """

    header: int
    descriptor: int
    end: int
    next: int


def read_notes(segment: memoryview) -> NoteSegment:
    """The notes in `segment` (the bytes of a PT_NOTE), as many as can be told apart.

    Zeroes after the last note are its end. Never raises.
    """
    data = bytes(segment[:MAX_NOTE_BYTES])
    # The last note may end in zeroes, but nothing begins after this.
    content = len(data.rstrip(b"\0"))
    best: list[_Extent] = []
    reached = 0
    for paddings in ((4,), (8,), (4, 8)):
        chain = _longest_chain(data, content, paddings)
        end = chain[-1].next if chain else 0
        if end >= content:
            return NoteSegment(tuple(_notes(data, chain)))
        if not best or end > reached:
            best, reached = chain, end
    return NoteSegment((*_notes(data, best), *_cut_note(data, reached)), reached)


def _longest_chain(data: bytes, content: int, paddings: Sequence[int]) -> list[_Extent]:
    """The notes from offset 0 on that get furthest; the time is linear in the size.

    None begins at `content` or later.
    """
    reached: dict[int, _Extent | None] = {0: None}
    for offset in range(0, min(content, len(data) - _HEADER.size + 1), _STEP):
        if offset in reached:
            for extent in _extents_at(data, offset, paddings):
                reached.setdefault(extent.next, extent)
    chain: list[_Extent] = []
    last = reached[max(reached)]
    while last is not None:
        chain.append(last)
        last = reached[last.header]
    return chain[::-1]


def _extents_at(data: bytes, offset: int, paddings: Sequence[int]) -> Iterator[_Extent]:
    name_size, descriptor_size, _ = _HEADER.unpack_from(data, offset)
    name_end = offset + _HEADER.size + name_size
    for padding in paddings:
        descriptor = _round_up(name_end, padding)
        end = descriptor + descriptor_size
        after = _round_up(end, padding)
        beyond_4 = data[_round_up(name_end, 4) : descriptor] + data[_round_up(end, 4) : after]
        if end <= len(data) and not any(beyond_4):
            yield _Extent(offset, descriptor, end, after)
    if len(paddings) > 1 and not name_size:
        # What a linker leaves between a section padded to 4 and one aligned to 8.
        yield _Extent(offset, offset, offset, offset + _STEP)


def _notes(data: bytes, chain: Sequence[_Extent]) -> Iterator[Note]:
    for extent in chain:
        if extent.descriptor > extent.header:
            name, number = _name_and_type(data, extent.header)
            yield Note(name, number, data[extent.descriptor : extent.end])


def _cut_note(data: bytes, offset: int) -> Iterator[Note]:
    """The note at `offset`, which claims too much, if as much as its name is there."""
    if offset + _HEADER.size > len(data):
        return
    name_size, _, _ = _HEADER.unpack_from(data, offset)
    if offset + _HEADER.size + name_size <= len(data):
        yield Note(*_name_and_type(data, offset), b"", is_cut=True)


def _name_and_type(data: bytes, offset: int) -> tuple[bytes, int]:
    name_size, _, number = _HEADER.unpack_from(data, offset)
    start = offset + _HEADER.size
    return data[start : start + name_size].removesuffix(b"\0"), number


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
