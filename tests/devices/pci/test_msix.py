# SPDX-License-Identifier: MIT
"""MSI-X: masks, pending bits, and a driver that does anything in any order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm.devices.pci.config_space import ConfigSpace, PciIdentity
from pyvmm.devices.pci.msix import PENDING, Msix, VectorChange
from pyvmm.errors import UsageError
from pyvmm.hosts.interrupts import Msi

VECTORS = 3
ENABLE, FUNCTION_MASK = 1 << 15, 1 << 14
CONTROL = 0x42


class Messages:
    """What the machine does with vectors: messages that keep what is signalled while masked."""

    def __init__(self) -> None:
        self.sending: dict[int, Msi] = {}
        self.kept: set[int] = set()
        self.sent: list[Msi] = []
        self.calls: list[tuple[VectorChange, ...]] = []

    def change(self, changes: Sequence[VectorChange]) -> None:
        self.calls.append(tuple(changes))
        for vector, msi, masked in changes:
            if masked:
                del self.sending[vector]
            else:
                self.sending[vector] = msi
                if vector in self.kept:
                    self.kept.discard(vector)
                    self.sent.append(msi)

    def forget(self) -> None:
        assert not self.sending
        self.kept.clear()

    def signal_all(self, vectors: Sequence[int]) -> None:
        for vector in vectors:
            self.signal(vector)

    def signal(self, vector: int) -> None:
        if vector in self.sending:
            self.sent.append(self.sending[vector])
        else:
            self.kept.add(vector)


class Function:
    def __init__(self) -> None:
        self.messages = Messages()
        self.msix = Msix(VECTORS, 1)
        self.msix.on_vectors = self.messages.change
        self.msix.pending = self.messages.kept.__contains__
        self.space = ConfigSpace(PciIdentity(1, 2, 0, 0, 3, 4), (), (self.msix.capability,))
        self.msix.allow(True)

    def control(self, value: int) -> None:
        self.space.write(CONTROL, 2, value)

    def row(self, vector: int, address: int, data: int, *, masked: bool) -> None:
        for at, value in enumerate((address & 0xFFFF_FFFF, address >> 32, data, masked)):
            self.msix.write(16 * vector + 4 * at, 4, value)


def test_it_starts_off_and_masked() -> None:
    made = Function()
    assert made.space.read(CONTROL, 2) == VECTORS - 1
    assert made.space.read(0x44, 4) == 1
    assert made.space.read(0x48, 4) == PENDING | 1
    for vector in range(VECTORS):
        assert [made.msix.read(16 * vector + at, 4) for at in (0, 4, 8, 12)] == [0, 0, 0, 1]
    assert made.messages.calls == []


def test_vectors_are_unmasked_in_one_go() -> None:
    made = Function()
    made.control(ENABLE | FUNCTION_MASK)
    for vector in range(VECTORS):
        made.row(vector, 0xFEE0_0000 | vector << 12, 0x40 + vector, masked=False)
    assert made.messages.calls == []
    made.control(ENABLE)
    (changes,) = made.messages.calls
    assert [one.vector for one in changes] == [0, 1, 2]
    assert changes[2] == (2, Msi(0xFEE0_2000, 0x42), False)
    made.control(0)
    assert [one.masked for one in made.messages.calls[1]] == [True] * VECTORS


@pytest.mark.parametrize("by", ["vector", "function", "enable", "bus master"])
def test_what_is_signalled_while_masked_is_pending_and_not_lost(by: str) -> None:
    made = Function()
    made.control(ENABLE)
    made.row(1, 0xFEE0_0000, 0x51, masked=False)

    def mask(masked: bool) -> None:
        if by == "vector":
            made.msix.write(16 + 12, 4, int(masked))
        elif by == "bus master":
            made.msix.allow(not masked)
        elif by == "enable":
            made.control(0 if masked else ENABLE)
        else:
            made.control(ENABLE | (FUNCTION_MASK if masked else 0))

    mask(True)
    made.messages.signal(1)
    assert made.msix.read(PENDING, 4) == 1 << 1
    assert made.msix.read(PENDING, 8) == 1 << 1
    assert made.messages.sent == []
    mask(False)
    assert made.messages.sent == [Msi(0xFEE0_0000, 0x51)]
    assert made.msix.read(PENDING, 4) == 0


def test_registers_are_written_whole_and_reserved_bits_stay() -> None:
    made = Function()
    made.row(0, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, masked=True)
    made.msix.write(12, 4, 0xFFFF_FFFF)
    assert made.msix.read(0, 8) == 0xFFFF_FFFF_FFFF_FFFC
    assert made.msix.read(12, 4) == 1
    for size in (1, 2):
        made.msix.write(8, size, 0)
    made.msix.write(PENDING, 4, 0xFFFF_FFFF)
    assert made.msix.read(8, 4) == 0xFFFF_FFFF
    assert made.msix.read(PENDING, 4) == 0
    assert made.msix.read(16 * VECTORS, 4) == 0


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="3 vectors, and the one that was saved 4"):
        Function().msix.restore(Msix(4, 1).save())


class AnyDriver(RuleBasedStateMachine):
    """Any accesses in any order, against the rules of 6.8.2 written down once more."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Function()
        self.table = [[0, 0, 0, 1] for _ in range(VECTORS)]
        self.bits = 0
        self.allowed = True

    @rule(vector=st.integers(0, VECTORS), part=st.integers(0, 3), value=st.integers(0, 7))
    def write(self, vector: int, part: int, value: int) -> None:
        self.made.msix.write(16 * vector + 4 * part, 4, value)
        if vector < VECTORS:
            self.table[vector][part] = value & {0: ~3, 3: 1}.get(part, ~0)

    @rule(offset=st.integers(0, 0xFFF), size=st.sampled_from((1, 2, 4)), data=st.integers(0, 255))
    def write_oddly(self, offset: int, size: int, data: int) -> None:
        if size < 4 or offset % 4:
            self.made.msix.write(offset, size, data)
        self.made.msix.read(offset, size)

    @rule(bits=st.sampled_from((0, ENABLE, FUNCTION_MASK, ENABLE | FUNCTION_MASK)))
    def control(self, bits: int) -> None:
        self.made.control(bits)
        self.bits = bits

    @rule(allowed=st.booleans())
    def allow(self, allowed: bool) -> None:
        self.made.msix.allow(allowed)
        self.allowed = allowed

    @rule(vector=st.integers(0, VECTORS - 1))
    def signal(self, vector: int) -> None:
        self.made.messages.signal(vector)

    @rule()
    def save_and_restore(self) -> None:
        saved = self.made.msix.save()
        config = self.made.space.save()
        self.made = Function()
        self.made.msix.allow(self.allowed)
        self.made.space.restore(config)
        self.made.msix.restore(saved)
        for vector in saved.pending:
            self.made.messages.signal(vector)
        assert self.made.msix.save() == saved

    @rule()
    def reset(self) -> None:
        self.made.msix.reset()
        self.made.space.reset()
        self.table = [[0, 0, 0, 1] for _ in range(VECTORS)]
        self.bits = 0

    @invariant()
    def the_right_vectors_send_the_right_messages(self) -> None:
        is_on = self.bits == ENABLE and self.allowed
        wanted = {
            vector: Msi(row[0] | row[1] << 32, row[2])
            for vector, row in enumerate(self.table)
            if is_on and not row[3]
        }
        assert self.made.messages.sending == wanted
        assert self.made.space.read(CONTROL, 2) == VECTORS - 1 | self.bits
        assert self.made.messages.kept.isdisjoint(wanted)
        pending = sum(1 << vector for vector in self.made.messages.kept)
        assert self.made.msix.read(PENDING, 4) == pending


TestAnyDriver = AnyDriver.TestCase
TestAnyDriver.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
