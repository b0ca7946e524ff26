# SPDX-License-Identifier: MIT
"""Descriptors, decoded again by the manual's drawing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.tables import descriptor
from pyvmm.hosts.registers import Segment


def decode_descriptor(raw: int, selector: int) -> Segment:
    """What a processor's hidden part holds after loading the descriptor (SDM vol. 3A, 3.4.5)."""
    limit = raw & 0xFFFF | (raw >> 48 & 0xF) << 16
    granular = raw >> 55 & 1
    return Segment(
        base=raw >> 16 & 0xFFFFFF | (raw >> 56 & 0xFF) << 24,
        limit=limit << 12 | 0xFFF if granular else limit,
        selector=selector,
        type=raw >> 40 & 0xF,
        s=raw >> 44 & 1,
        dpl=raw >> 45 & 3,
        present=raw >> 47 & 1,
        avl=raw >> 52 & 1,
        l=raw >> 53 & 1,
        db=raw >> 54 & 1,
        g=granular,
    )


bits = st.integers(0, 1)


@given(
    base=st.integers(0, 0xFFFFFFFF),
    limit=st.integers(0, 0xFFFFF),
    kind=st.integers(0, 15),
    dpl=st.integers(0, 3),
    flags=st.tuples(bits, bits, bits, bits, bits, bits),
)
def test_a_descriptor_loads_as_the_segment_it_was_made_of(
    base: int, limit: int, kind: int, dpl: int, flags: tuple[int, ...]
) -> None:
    s, present, avl, long, db, g = flags
    segment = Segment(
        base=base,
        limit=limit << 12 | 0xFFF if g else limit,
        selector=0x18,
        type=kind,
        dpl=dpl,
        s=s,
        present=present,
        avl=avl,
        l=long,
        db=db,
        g=g,
    )
    assert decode_descriptor(int.from_bytes(descriptor(segment), "little"), 0x18) == segment


def test_a_well_known_descriptor() -> None:
    """What every tutorial has for flat 32-bit code, in bytes."""
    flat = Segment(limit=0xFFFFFFFF, type=10, s=1, present=1, db=1, g=1)
    assert descriptor(flat) == bytes.fromhex("ffff0000009acf00")
