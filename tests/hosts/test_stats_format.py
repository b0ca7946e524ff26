# SPDX-License-Identifier: MIT
"""The statistics file's format, from bytes made by hand."""

from __future__ import annotations

import struct

import pytest

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm.stats import (
    StatBase,
    StatDescriptor,
    Statistic,
    StatKind,
    StatUnit,
    parse_data,
    parse_layout,
)

NAME = 16


def descriptor(name: bytes, flags: int, exponent: int, count: int, offset: int) -> bytes:
    return struct.pack("<IhHII", flags, exponent, count, offset, 7) + name.ljust(NAME, b"\0")


def content(*descriptors: bytes) -> bytes:
    header = struct.pack("<6I", 0, NAME, len(descriptors), 24, 24 + NAME, 4096)
    return header + b"kvm-1/vcpu-0".ljust(NAME, b"\0") + b"".join(descriptors)


EXITS = descriptor(b"exits", 0, 0, 1, 0)
WAIT = descriptor(b"wait_hist", 4 | 2 << 4, -9, 3, 8)
FUTURE = descriptor(b"future", 9 | 9 << 4 | 1 << 8, 20, 1, 32)


def test_layout_and_values() -> None:
    layout = parse_layout(content(EXITS, WAIT, FUTURE))
    assert layout.ident == "kvm-1/vcpu-0"
    assert (layout.data_offset, layout.data_size) == (4096, 40)
    exits, wait, future = layout.descriptors
    assert exits == StatDescriptor(
        "exits", StatKind.CUMULATIVE, StatUnit.NONE, StatBase.POW10, 0, 1, 0, 7
    )
    assert (wait.kind, wait.unit) == (StatKind.LOGARITHMIC_HISTOGRAM, StatUnit.SECONDS)
    assert (wait.exponent, wait.count) == (-9, 3)
    assert (future.kind, future.unit, future.base) == (9, 9, StatBase.POW2)
    data = struct.pack("<5Q", 1, 2, 3, 4, 2**64 - 1)
    assert parse_data(layout, data) == (
        Statistic(exits, (1,)),
        Statistic(wait, (2, 3, 4)),
        Statistic(future, (2**64 - 1,)),
    )
    with pytest.raises(InternalError):
        parse_data(layout, data[:-1])


@pytest.mark.parametrize("size", [0, 23, 24, 40, 71])
def test_what_is_cut_short_is_refused(size: int) -> None:
    with pytest.raises(InternalError):
        parse_layout(content(EXITS)[:size])


def test_unknown_base_is_refused() -> None:
    with pytest.raises(InternalError, match="base"):
        parse_layout(content(descriptor(b"odd", 2 << 8, 0, 1, 0)))
