# SPDX-License-Identifier: MIT
"""What page tables map: every mode, runs joined, and tables that are meant to take for ever."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.hosts.registers import Cr0, Cr4, Efer, Sregs
from pyvmm.memory import mappings
from pyvmm.memory.mappings import LinearRun, TooManyMappingsError, mapped_runs
from pyvmm.memory.page_walk import walk

PRESENT = 1
LARGE = 1 << 7
MIB = 1 << 20


class Ram:
    """Memory that tables are written into."""

    def __init__(self, size: int = MIB) -> None:
        self.bytes = bytearray(size)

    def read(self, gpa: int, size: int) -> bytes | None:
        return bytes(self.bytes[gpa : gpa + size]) if gpa + size <= len(self.bytes) else None

    def set(self, table: int, index: int, value: int, size: int = 8) -> None:
        struct.pack_into("<Q" if size == 8 else "<I", self.bytes, table + index * size, value)


def long_mode(cr3: int, extra: int = 0) -> Sregs:
    return Sregs(
        cr0=Cr0.PE | Cr0.PG, cr3=cr3, cr4=Cr4.PAE | extra, efer=Efer.LME | Efer.LMA | Efer.NXE
    )


def test_without_paging_nothing_is_mapped() -> None:
    assert list(mapped_runs(Ram().read, Sregs(cr0=Cr0.PE, cr3=0x1000))) == []


def test_pages_of_all_sizes_and_a_canonical_address() -> None:
    ram = Ram()
    ram.set(0x1000, 0, 0x2000 | PRESENT)
    ram.set(0x1000, 511, 0x2000 | PRESENT)
    ram.set(0x2000, 0, 0x3000 | PRESENT)
    ram.set(0x2000, 1, 0x4000_0000 | LARGE | PRESENT)
    ram.set(0x3000, 0, 0x4000 | PRESENT)
    ram.set(0x3000, 3, 0x60_0000 | LARGE | PRESENT | 1 << 63)
    ram.set(0x4000, 5, 0x9000 | PRESENT)
    ram.set(0x4000, 6, 0xA000 | PRESENT)
    ram.set(0x4000, 7, 0xA000 | PRESENT)
    low = [
        LinearRun(0x5000, 0x9000, 0x2000),
        LinearRun(0x7000, 0xA000, 0x1000),
        LinearRun(0x60_0000, 0x60_0000, 2 * MIB),
        LinearRun(0x4000_0000, 0x4000_0000, 1 << 30),
    ]
    high = [LinearRun(run.linear | 0xFFFF_FF80_0000_0000, run.gpa, run.size) for run in low]
    assert list(mapped_runs(ram.read, long_mode(0x1000))) == low + high


def test_five_levels() -> None:
    ram = Ram()
    for table in range(1, 5):
        ram.set(table << 12, 511, (table + 1) << 12 | PRESENT)
    ram.set(0x5000, 511, 0x7000 | PRESENT)
    found = list(mapped_runs(ram.read, long_mode(0x1000, Cr4.LA57)))
    assert found == [LinearRun(0xFFFF_FFFF_FFFF_F000, 0x7000, 0x1000)]


def test_32_bit_tables_and_pae() -> None:
    ram = Ram()
    ram.set(0x1000, 1, 0x80_0000 | LARGE | PRESENT, 4)
    ram.set(0x1000, 1023, 0x2000 | PRESENT, 4)
    ram.set(0x2000, 1023, 0x3000 | PRESENT, 4)
    plain = Sregs(cr0=Cr0.PE | Cr0.PG, cr3=0x1000)
    assert list(mapped_runs(ram.read, plain)) == [
        LinearRun(0x40_0000, 0x80_0000, 4 * MIB),
        LinearRun(0xFFFF_F000, 0x3000, 0x1000),
    ]
    ram = Ram()
    ram.set(0x1020, 3, 0x2000 | PRESENT)
    ram.set(0x2000, 511, 0x3000 | PRESENT)
    ram.set(0x3000, 511, 0x5000 | PRESENT)
    pae = Sregs(cr0=Cr0.PE | Cr0.PG, cr3=0x1020, cr4=Cr4.PAE)
    assert list(mapped_runs(ram.read, pae)) == [LinearRun(0xFFFF_F000, 0x5000, 0x1000)]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 511), st.integers(1, 9), st.booleans()),
        max_size=30,
    )
)
def test_runs_agree_with_walks(entries: list[tuple[int, int, int, bool]]) -> None:
    """Whatever the tables hold: where there is a run, a walk ends where it says, and only there."""
    ram = Ram(0xA000)
    for table, index, target, large in entries:
        # A table leads to later ones only, so that there is an end.
        ram.set(table << 12, index, max(target, table + 1) << 12 | large * LARGE | PRESENT)
    sregs = long_mode(0x1000)
    runs = list(mapped_runs(ram.read, sregs))
    for run in runs[:20]:
        for linear in (run.linear, run.linear + run.size - 1):
            assert walk(ram.read, sregs, linear).gpa == run.gpa + linear - run.linear
    for first, second in pairwise(runs):
        gap = first.linear + first.size
        assert gap <= second.linear
        if gap < second.linear and gap & 1 << 47 == first.linear & 1 << 47:
            assert walk(ram.read, sregs, gap).gpa is None


def test_tables_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "MOST_TABLES", 2000)
    ram = Ram()
    for table in range(1, 4):
        for index in range(512):
            ram.set(table << 12, index, (table + 1) << 12 | PRESENT)
    with pytest.raises(TooManyMappingsError, match="more than 2000"):
        list(mapped_runs(ram.read, long_mode(0x1000)))


def test_a_table_that_leads_to_itself_is_given_up() -> None:
    ram = Ram()
    for index in range(512):
        ram.set(0x1000, index, 0x1000 | PRESENT)
    with pytest.raises(TooManyMappingsError, match="separate ranges"):
        list(mapped_runs(ram.read, long_mode(0x1000)))


def test_too_many_runs_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "MOST_RUNS", 100)
    ram = Ram()
    for table in range(1, 4):
        ram.set(table << 12, 0, (table + 1) << 12 | PRESENT)
    for index in range(0, 512, 2):
        ram.set(0x4000, index, 0x9000 | PRESENT)
    with pytest.raises(TooManyMappingsError, match="more than 100 separate"):
        list(mapped_runs(ram.read, long_mode(0x1000)))


def test_tables_outside_of_memory_map_nothing() -> None:
    ram = Ram()
    ram.set(0x1000, 0, 0xDEAD_0000 | PRESENT)
    assert list(mapped_runs(ram.read, long_mode(0x1000))) == []
    assert list(mapped_runs(ram.read, long_mode(0xDEAD_0000))) == []
