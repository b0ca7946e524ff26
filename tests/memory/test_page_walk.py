# SPDX-License-Identifier: MIT
"""Page walks over tables made by hand: every paging mode, holes, large pages, hostile entries."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.hosts.registers import Cr0, Cr4, Efer, Sregs
from pyvmm.memory.page_walk import walk

LONG = Sregs(cr0=Cr0.PE | Cr0.PG, cr3=0x1000, cr4=Cr4.PAE, efer=Efer.LME | Efer.LMA)


class Memory:
    """RAM of 64 KiB with entries put into it."""

    def __init__(self, entry_size: int = 8) -> None:
        self.data = bytearray(1 << 16)
        self.entry_size = entry_size

    def put(self, gpa: int, value: int) -> None:
        self.data[gpa : gpa + self.entry_size] = value.to_bytes(self.entry_size, "little")

    def read(self, gpa: int, size: int) -> bytes | None:
        return bytes(self.data[gpa : gpa + size]) if 0 <= gpa <= len(self.data) - size else None


def test_without_paging_an_address_is_itself() -> None:
    found = walk(Memory().read, Sregs(), 0x12345)
    assert found.gpa == 0x12345
    assert found.steps == ()


def test_four_levels_to_a_4_kib_page() -> None:
    memory = Memory()
    linear = (1 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 0x567
    memory.put(0x1000 + 8 * 1, 0x2003)
    memory.put(0x2000 + 8 * 2, 0x3003)
    memory.put(0x3000 + 8 * 3, 0x4003)
    memory.put(0x4000 + 8 * 4, 0x8000_0000_0000_9003)  # no-execute
    found = walk(memory.read, LONG, linear)
    assert found.gpa == 0x9567
    assert [step.level for step in found.steps] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert [step.entry_gpa for step in found.steps] == [0x1008, 0x2010, 0x3018, 0x4020]


def test_a_1_gib_page_ends_the_walk() -> None:
    memory = Memory()
    memory.put(0x1000, 0x2003)
    memory.put(0x2000 + 8, 0x4000_0083)
    assert walk(memory.read, LONG, 0x4123_4567).gpa == 0x4123_4567


def test_a_2_mib_page_ends_the_walk() -> None:
    memory = Memory()
    memory.put(0x1000, 0x2003)
    memory.put(0x2000, 0x3003)
    memory.put(0x3000, 0x60_0083)
    found = walk(memory.read, LONG, 0x1_2345)
    assert found.gpa == 0x61_2345
    assert str(found.steps[-1]).endswith("PW---S")


def test_the_large_bit_of_a_pml4_entry_is_no_leaf() -> None:
    memory = Memory()
    memory.put(0x1000, 0x2083)
    memory.put(0x2000, 0x0083)
    assert [step.level for step in walk(memory.read, LONG, 0).steps] == ["PML4E", "PDPTE"]


def test_an_absent_entry_is_shown_and_ends_the_walk() -> None:
    memory = Memory()
    memory.put(0x1000, 0x2003)
    found = walk(memory.read, LONG, 0)
    assert found.gpa is None
    assert [step.present for step in found.steps] == [True, False]


def test_a_table_outside_ram_is_said() -> None:
    memory = Memory()
    memory.put(0x1000, 0xFFFF_F003)
    found = walk(memory.read, LONG, 0)
    assert found.gpa is None
    assert "not readable" in str(found.steps[-1])


def test_five_levels() -> None:
    memory = Memory()
    memory.put(0x1000 + 8 * 5, 0x2003)
    memory.put(0x2000, 0x3003)
    memory.put(0x3000, 0x0083)
    found = walk(memory.read, replace(LONG, cr4=Cr4.PAE | Cr4.LA57), (5 << 48) | 0x77)
    assert found.gpa == 0x77
    assert found.steps[0].level == "PML5E"


def test_pae_tables_are_32_byte_aligned() -> None:
    memory = Memory()
    sregs = Sregs(cr0=Cr0.PE | Cr0.PG, cr3=0x1020, cr4=Cr4.PAE)
    memory.put(0x1020 + 8 * 3, 0x2001)
    memory.put(0x2000 + 8 * 1, 0x3003)
    memory.put(0x3000 + 8 * 2, 0x5003)
    assert walk(memory.read, sregs, (3 << 30) | (1 << 21) | (2 << 12) | 9).gpa == 0x5009


def test_32_bit_tables() -> None:
    memory = Memory(entry_size=4)
    sregs = Sregs(cr0=Cr0.PE | Cr0.PG, cr3=0x1000)
    memory.put(0x1000 + 4 * 1, 0x2003)
    memory.put(0x2000 + 4 * 2, 0x7003)
    memory.put(0x1000 + 4 * 3, 0x40_0083)
    assert walk(memory.read, sregs, (1 << 22) | (2 << 12) | 5).gpa == 0x7005
    assert walk(memory.read, sregs, (3 << 22) | 0x1234).gpa == 0x40_1234


@given(
    data=st.binary(min_size=8, max_size=64),
    linear=st.integers(0, (1 << 64) - 1),
    cr3=st.integers(0, (1 << 64) - 1),
    cr4=st.sampled_from([0, Cr4.PAE, Cr4.PAE | Cr4.LA57]),
    long_mode=st.booleans(),
)
def test_nothing_in_a_guests_tables_makes_a_walk_fail(
    data: bytes, linear: int, cr3: int, cr4: int, long_mode: bool
) -> None:
    memory = Memory()
    memory.data[:] = (data * (1 << 13))[: 1 << 16]
    sregs = Sregs(
        cr0=Cr0.PE | Cr0.PG, cr3=cr3, cr4=cr4, efer=Efer.LMA | Efer.LME if long_mode else 0
    )
    found = walk(memory.read, sregs, linear)
    assert 1 <= len(found.steps) <= 5
    assert all(str(step) for step in found.steps)
