# SPDX-License-Identifier: MIT
"""Windows of BARs on a machine's buses, whatever a guest makes of them."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.bus import Bus
from pyvmm.devices.pci.bars import Bar, BarKind
from pyvmm.devices.pci.config_space import ConfigSpace, PciIdentity
from pyvmm.devices.pci.segment import GuardedFunction
from pyvmm.devices.placement import Space
from pyvmm.machine.pci.windows import BarWindows

ONES = 0xFFFF_FFFF


class Registers:
    """Registers that answer by the same number everywhere."""

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def read(self, offset: int, size: int) -> int:
        del offset, size
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        del offset, size, value


class Machine:
    """Two functions with two BARs each, a UART's ports, and RAM up to 1 GiB."""

    def __init__(self) -> None:
        self.ports, self.mmio = Bus("port", 0x10000), Bus("MMIO", 1 << 64)
        self.ports.add(0x3F8, 8, Registers(0x99), "UART")
        self.windows = BarWindows()
        self.windows.attach(
            {Space.PORT: self.ports, Space.MMIO: self.mmio},
            [(Space.PORT, 0x20, 0x22), (Space.MMIO, 0, 1 << 30)],
        )
        self.functions = [self._function(number) for number in range(2)]

    def _function(self, number: int) -> GuardedFunction:
        bars = (
            Bar(0, BarKind.IO, 0x100, Registers(0x10 + number), 4),
            Bar(1, BarKind.MEMORY_32, 0x1000, Registers(0x20 + number), 4),
        )
        space = ConfigSpace(PciIdentity(1, 2, 3, 4, 5, 6), bars)
        function = GuardedFunction(f"device {number}", space, threading.Lock())
        space.on_change = lambda: self.windows.update(function)
        return function

    def write(self, number: int, register: int, size: int, value: int) -> None:
        self.functions[number].write(register, size, value)

    def decode(self, number: int, port: int, gpa: int = 0) -> None:
        self.write(number, 0x10, 4, port)
        self.write(number, 0x14, 4, gpa)
        self.write(number, 4, 2, 3)


def test_a_bar_comes_moves_and_goes() -> None:
    made = Machine()
    made.decode(0, 0xC000, 0xC000_0000)
    assert made.ports.read(0xC0FF, 1) == 0x10
    assert made.mmio.read(0xC000_0000, 4) == 0x20
    made.write(0, 0x10, 4, 0xD000)
    assert made.ports.read(0xC000, 1) == 0xFF
    assert made.ports.read(0xD000, 1) == 0x10
    assert made.windows.start(made.functions[0], 0) == 0xD000
    assert [one.name for one in made.windows.windows(Space.PORT)] == ["BAR of device 0"]
    made.write(0, 4, 2, 1)
    assert made.mmio.read(0xC000_0000, 4) == ONES
    made.functions[0].space.reset()
    assert made.ports.read(0xD000, 1) == 0xFF
    assert [one.name for one in made.ports.ranges] == ["UART"]


def test_what_was_there_first_answers_and_the_other_is_mapped_when_it_has_gone() -> None:
    made = Machine()
    for port in (0x300, 0x20):
        made.decode(0, port)
    assert made.ports.read(0x3F8, 1) == 0x99
    assert made.windows.start(made.functions[0], 0) is None
    made.decode(0, 0xC000)
    made.decode(1, 0xC000)
    assert made.ports.read(0xC000, 1) == 0x10
    assert made.windows.start(made.functions[1], 0) is None
    made.write(0, 4, 2, 0)
    assert made.ports.read(0xC000, 1) == 0x11
    assert made.windows.overlaps > 0


def test_memory_answers_instead_of_a_bar_over_it() -> None:
    made = Machine()
    made.decode(0, 0, 0x3FFF_F000)
    assert made.windows.start(made.functions[0], 1) is None
    made.write(0, 0x14, 4, 0x4000_0000)
    assert made.windows.start(made.functions[0], 1) == 0x4000_0000


PORTS = (0, 0x20, 0x300, 0xC000, 0xC100, 0xFF00, ONES)
GPAS = (0, 0x1000, 0x3FFF_F000, 0x4000_0000, 0xC000_0000, ONES)
writes = st.one_of(
    st.tuples(st.just(4), st.just(2), st.integers(0, 7)),
    st.tuples(st.just(0x10), st.just(4), st.sampled_from(PORTS)),
    st.tuples(st.just(0x14), st.just(4), st.sampled_from(GPAS)),
    st.tuples(st.integers(0, 255), st.sampled_from((1, 2, 4)), st.integers(0, 255)),
)


@given(st.lists(st.tuples(st.integers(0, 1), writes), max_size=40))
def test_whatever_guests_do_each_place_has_one_who_answers(
    done: list[tuple[int, tuple[int, int, int]]],
) -> None:
    made = Machine()
    for number, (register, size, value) in done:
        made.write(number, register, size, value)
    wanted = {
        (function.name, bar.number): (bar.kind.space, address, bar.size)
        for function in made.functions
        for bar, address in function.space.placed()
    }
    mapped = {
        (function.name, bar.number)
        for function in made.functions
        for bar in function.space.bars
        if made.windows.start(function, bar.number) is not None
    }
    assert mapped <= wanted.keys()
    assert made.ports.read(0x3F8, 1) == 0x99
    on_buses = [one.name for bus in (made.ports, made.mmio) for one in bus.ranges]
    assert sorted(on_buses) == sorted(["UART", *(f"BAR of {name}" for name, _ in mapped)])
    # One that is left out would lie over something that answers.
    for key in wanted.keys() - mapped:
        space, start, size = wanted[key]
        others = [wanted[one] for one in mapped]
        others += [(Space.PORT, 0x20, 2), (Space.PORT, 0x3F8, 8), (Space.MMIO, 0, 1 << 30)]
        assert any(
            space is where and at < start + size and start < at + length
            for where, at, length in others
        )
