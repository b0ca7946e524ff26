# SPDX-License-Identifier: MIT
"""The bus: who answers, how wide accesses are split, what happens where nobody is."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.bus import UNCLAIMED_LIMIT, Bus, BusOverlapError, BusRangeError
from pyvmm.errors import InternalError


class Recorder:
    """Remembers accesses; a byte at offset n reads as `base` + n."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.log: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size))
        return int.from_bytes(bytes(self.base + offset + i & 0xFF for i in range(size)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        assert 0 <= value < 1 << 8 * size
        self.log.append(("write", offset, size, value))


def port_bus() -> Bus:
    return Bus("port", 0x10000)


def test_an_access_reaches_the_device_with_its_offset() -> None:
    bus, device = port_bus(), Recorder()
    bus.add(0x3F8, 8, device, "COM1")
    bus.write(0x3FF, 1, 0x5A)
    assert bus.read(0x3FA, 1) == 2
    assert device.log == [("write", 7, 1, 0x5A), ("read", 2, 1)]


@pytest.mark.parametrize(
    ("width", "address", "size", "pieces"),
    [
        (1, 0x10, 1, [(0, 1)]),
        (1, 0x10, 2, [(0, 1), (1, 1)]),
        (1, 0x10, 4, [(0, 1), (1, 1), (2, 1), (3, 1)]),
        (2, 0x10, 4, [(0, 2), (2, 2)]),
        (2, 0x11, 4, [(1, 1), (2, 2), (4, 1)]),
        (4, 0x10, 4, [(0, 4)]),
        (4, 0x12, 4, [(2, 4)]),  # within the device and no wider than it takes: its own business
        (4, 0x10, 8, [(0, 4), (4, 4)]),
        (4, 0x14, 8, [(4, 4), (8, 4)]),
        (8, 0x10, 8, [(0, 8)]),
        (4, 0x10, 3, [(0, 2), (2, 1)]),
        (8, 0x11, 7, [(1, 1), (2, 2), (4, 4)]),
    ],
)
def test_splitting(width: int, address: int, size: int, pieces: list[tuple[int, int]]) -> None:
    bus, device = Bus("MMIO", 1 << 32), Recorder()
    bus.add(0x10, 16, device, "device", width=width)
    data = bytes(range(0xA0, 0xA0 + size))
    bus.write(address, size, int.from_bytes(data, "little"))
    done = 0
    for (offset, piece), entry in zip(pieces, device.log, strict=True):
        want = int.from_bytes(data[done : done + piece], "little")
        assert entry == ("write", offset, piece, want)
        done += piece
    device.log.clear()
    value = bus.read(address, size)
    assert value.to_bytes(size, "little") == bytes(address - 0x10 + i for i in range(size))
    assert device.log == [("read", *piece) for piece in pieces]


def test_an_access_across_two_devices_and_a_gap() -> None:
    bus, low, high = port_bus(), Recorder(0x10), Recorder(0x80)
    bus.add(0x100, 1, low, "low", width=4)
    bus.add(0x102, 2, high, "high", width=2)
    assert bus.read(0x100, 4) == 0x8180FF10
    bus.write(0x100, 4, 0x44332211)
    assert low.log == [("read", 0, 1), ("write", 0, 1, 0x11)]
    assert high.log == [("read", 0, 2), ("write", 0, 2, 0x4433)]
    assert bus.unclaimed == {0x101: 2}


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_nobody_there(size: int) -> None:
    bus = port_bus()
    bus.add(0x60, 1, Recorder(), "low")
    assert bus.read(0x70, size) == (1 << 8 * size) - 1
    bus.write(0x70, size, 0)
    bus.write(0xFFFF, size, 0)  # its rest lies outside the address space
    assert bus.unclaimed == {0x70: 2, 0xFFFF: 1}


def test_unclaimed_is_bounded() -> None:
    bus = port_bus()
    for address in range(UNCLAIMED_LIMIT + 10):
        bus.write(address, 1, 0)
    bus.write(0, 1, 0)
    assert len(bus.unclaimed) == UNCLAIMED_LIMIT
    assert bus.unclaimed[0] == 2
    assert bus.unclaimed_elsewhere == 10


@pytest.mark.slow
def test_every_port_can_be_tried() -> None:
    """More addresses than the bus remembers routes for."""
    bus, device = port_bus(), Recorder()
    bus.add(0x8000, 4, device, "device")
    for address in range(0x10000):
        bus.write(address, 1, 0)
    assert [entry[1] for entry in device.log] == [0, 1, 2, 3]
    # Nothing of this is visible but the memory that it would take: an MMIO bus has 2**64 addresses.
    assert len(bus._found) <= 4096


@pytest.mark.parametrize(
    ("start", "length"), [(0x10, 4), (0x0F, 2), (0x13, 1), (0x11, 1), (0, 0x100), (0x12, 10)]
)
def test_overlap(start: int, length: int) -> None:
    bus = port_bus()
    old = bus.add(0x10, 4, Recorder(), "old")
    with pytest.raises(BusOverlapError) as caught:
        bus.add(start, length, Recorder(), "new")
    error = caught.value
    assert isinstance(error, InternalError)
    assert error.present is old
    assert (error.added.start, error.added.end) == (start, start + length)
    text = str(error)
    for part in ("port bus", "new at", "old at", f"{start:#x}", f"{start + length:#x}", "0x14"):
        assert part in text
    assert str(copy.copy(error)) == text
    assert bus.ranges == (old,)


@pytest.mark.parametrize(("start", "length"), [(0x0F, 1), (0x14, 1), (0, 0x10), (0x14, 0xFFEC)])
def test_neighbours_are_no_overlap(start: int, length: int) -> None:
    bus = port_bus()
    bus.add(0x10, 4, Recorder(), "old")
    bus.add(start, length, Recorder(), "new")
    assert [present.start for present in bus.ranges] == sorted([0x10, start])


@pytest.mark.parametrize(
    ("start", "length", "width"),
    [(-1, 4, 1), (0, 0, 1), (0, -1, 1), (0xFFFF, 2, 1), (0, 4, 3), (0, 4, 0), (0, 16, 16)],
)
def test_impossible_ranges(start: int, length: int, width: int) -> None:
    with pytest.raises(BusRangeError, match="port bus"):
        port_bus().add(start, length, Recorder(), "bad", width=width)


def test_remove_and_add_again() -> None:
    bus, first, second = port_bus(), Recorder(), Recorder(0x40)
    place = bus.add(0x20, 2, first, "first")
    assert bus.read(0x20, 1) == 0
    bus.remove(place)
    assert bus.read(0x20, 1) == 0xFF
    assert bus.find(0x20) is None
    with pytest.raises(BusRangeError, match="first"):
        bus.remove(place)
    again = bus.add(0x20, 2, second, "second")
    assert bus.read(0x21, 1) == 0x41
    assert bus.find(0x21) is again
    assert bus.find(0x22) is None
    # Of the same shape, but not the one that is there.
    with pytest.raises(BusRangeError):
        bus.remove(place)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_string_output_hands_over_each_value(size: int) -> None:
    bus, device = port_bus(), Recorder()
    bus.add(0x100, 8, device, "device", width=4)
    data = bytes(range(3 * size))
    bus.handle_out(0x100, size, 3, data)
    values = [int.from_bytes(data[i : i + size], "little") for i in range(0, 3 * size, size)]
    assert device.log == [("write", 0, size, value) for value in values]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_string_input_reads_each_value(size: int, count: int) -> None:
    class Counter:
        value = 0

        def read(self, offset: int, size: int) -> int:
            self.value += 1
            return self.value

        def write(self, offset: int, size: int, value: int) -> None:
            raise AssertionError

    bus = port_bus()
    bus.add(0x100, 4, Counter(), "counter", width=4)
    want = b"".join(i.to_bytes(size, "little") for i in range(1, count + 1))
    assert bus.handle_in(0x100, size, count) == want


def test_string_io_to_a_narrow_device_repeats_the_split() -> None:
    bus, device = port_bus(), Recorder()
    bus.add(0x100, 2, device, "device")
    bus.handle_out(0x100, 2, 2, b"\x01\x02\x03\x04")
    assert [entry[1:] for entry in device.log] == [
        (0, 1, 1),
        (1, 1, 2),
        (0, 1, 3),
        (1, 1, 4),
    ]


def test_nothing_to_do() -> None:
    bus = port_bus()
    bus.handle_out(0, 1, 0, b"")
    assert bus.handle_in(0, 1, 0) == b""
    assert bus.unclaimed == {}


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Disjoint (start, length, width) within [0, 64)."""
    cuts = sorted(draw(st.sets(st.integers(0, 63), min_size=2, max_size=12)))
    kept = [pair for pair in itertools.pairwise(cuts) if draw(st.booleans())]
    return [(a, b - a, draw(st.sampled_from([1, 2, 4, 8]))) for a, b in kept]


class Ram:
    """Plain bytes: any split in any order must come to the same contents."""

    def __init__(self, length: int, width: int) -> None:
        self.data = bytearray(length)
        self.width = width

    def read(self, offset: int, size: int) -> int:
        assert size in (1, 2, 4, 8)
        assert size <= self.width
        assert offset + size <= len(self.data)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.read(offset, size)
        self.data[offset : offset + size] = value.to_bytes(size, "little")


@given(
    layouts(),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 8), st.binary(min_size=8, max_size=8))),
)
def test_any_layout_behaves_as_flat_memory(
    layout: list[tuple[int, int, int]], writes: list[tuple[int, int, bytes]]
) -> None:
    bus = Bus("MMIO", 64)
    flat = bytearray(b"\xff" * 80)
    claimed: set[int] = set()
    for start, length, width in layout:
        bus.add(start, length, Ram(length, width), "RAM", width=width)
        flat[start : start + length] = bytes(length)
        claimed.update(range(start, start + length))
    for address, size, data in writes:
        bus.write(address, size, int.from_bytes(data[:size], "little"))
        for i in range(size):
            if address + i in claimed:
                flat[address + i] = data[i]
        assert bus.read(address, size).to_bytes(size, "little") == flat[address : address + size]
