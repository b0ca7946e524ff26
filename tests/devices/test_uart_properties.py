# SPDX-License-Identifier: MIT
"""The serial port under any sequence of accesses: nothing lost, nothing reordered, posting true."""

from __future__ import annotations

from collections import deque

from hypothesis import example, given
from hypothesis import strategies as st

from .wired_port import DATA, DLAB, FCR, IER, LCR, LOOP, LSR, MCR, MSR, WiredPort

# One step of a scenario: what happens, and with what.
Step = tuple[str, int, int] | tuple[str, bytes] | tuple[str, bool]

# Weighted towards what matters: the console's everyday accesses, and the few values that switch
# something.
_reads = st.tuples(st.just("read"), st.integers(0, 7), st.just(0))
_any_writes = st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255))
_sends = st.tuples(st.just("write"), st.just(DATA), st.integers(0, 255))
_switches = st.tuples(
    st.just("write"),
    st.sampled_from([IER, FCR, LCR, MCR]),
    st.sampled_from([0, 1, 2, 3, 4, 8, 0x0F, LOOP, LOOP | 0x0B, DLAB, 0xC1, 0xC7]),
)
_looks = st.tuples(st.just("read"), st.sampled_from([DATA, LSR, LSR, MSR]), st.just(0))
_input = st.tuples(st.just("receive"), st.binary(max_size=20))
_carrier = st.tuples(st.just("carrier"), st.booleans())
steps = st.lists(
    st.one_of(_reads, _any_writes, _sends, _sends, _switches, _looks, _looks, _input, _carrier),
    max_size=60,
)


class FastPath:
    """What a host does with postings: answers by itself, collects, and drains before all else."""

    def __init__(self) -> None:
        self.port = WiredPort()
        self.ring = bytearray()
        self.answered = 0

    def drain(self) -> None:
        if self.ring:
            self.port.uart.posted_write(bytes(self.ring))
            self.ring.clear()

    def read(self, register: int) -> int:
        for item in self.port.uart.posting:
            if item.offset == register and item.read_value is not None:
                self.answered += 1
                return item.read_value
        self.drain()
        return self.port.read(register)

    def write(self, register: int, value: int) -> None:
        for item in self.port.uart.posting:
            if item.offset == register and item.write:
                self.answered += 1
                self.ring.append(value)
                return
        self.drain()
        self.port.write(register, value)


@given(steps)
@example([("carrier", False), ("read", MSR, 0), ("read", MSR, 0)])
@example([("write", IER, 2), ("write", DATA, 1), ("write", DATA, 2)])
@example([("write", DATA, 1), ("write", MCR, LOOP), ("write", DATA, 2), ("read", DATA, 0)])
@example([("write", MCR, LOOP), ("write", DATA, 1), ("read", LSR, 0)])
@example([("receive", b"x"), ("read", LSR, 0)])
@example([("write", MCR, LOOP), *[("write", DATA, 1)] * 2, ("read", DATA, 0), ("read", LSR, 0)])
def test_posting_makes_no_visible_difference(scenario: list[Step]) -> None:
    plain, fast = WiredPort(), FastPath()
    for step in scenario:
        match step:
            case ("read", int(register), _):
                assert plain.read(register) == fast.read(register), step
            case ("write", int(register), int(value)):
                plain.write(register, value)
                fast.write(register, value)
            case ("receive", bytes(data)):
                assert plain.uart.receive(data) == fast.port.uart.receive(data)
            case ("carrier", bool(present)):
                plain.uart.set_carrier(present)
                fast.port.uart.set_carrier(present)
            case _:
                raise AssertionError(step)
        # Visible without an access: the interrupt line with its edges, and the wire's other end.
        assert plain.irqs == fast.port.irqs, step
        assert plain.rooms == fast.port.rooms, step
        assert bytes(plain.sent) == bytes(fast.port.sent + fast.ring), step


@given(steps)
def test_posting_is_the_same_object_while_it_says_the_same(scenario: list[Step]) -> None:
    port = WiredPort()
    seen = {port.uart.posting: port.uart.posting}
    for step in scenario:
        match step:
            case ("read", int(register), _):
                port.read(register)
            case ("write", int(register), int(value)):
                port.write(register, value)
            case ("receive", bytes(data)):
                port.uart.receive(data)
            case ("carrier", bool(present)):
                port.uart.set_carrier(present)
            case _:
                raise AssertionError(step)
        posting = port.uart.posting
        assert seen.setdefault(posting, posting) is posting
        offsets = [item.offset for item in posting]
        assert len(offsets) == len(set(offsets))


def test_the_everyday_console_is_posted() -> None:
    fast = FastPath()
    for value in b"hello, world\n":
        assert fast.read(LSR) == 0x60
        fast.write(DATA, value)
    assert fast.answered == 26
    fast.drain()
    assert fast.port.sent == b"hello, world\n"


@given(
    st.sampled_from([0x00, 0x01, 0x41, 0x81, 0xC1]),
    st.lists(st.one_of(st.binary(max_size=24), st.integers(0, 20)), max_size=40),
)
def test_input_is_neither_lost_nor_reordered(fcr: int, scenario: list[bytes | int]) -> None:
    """Bytes wait outside until they are taken; the guest reads while there is data."""
    port = WiredPort()
    port.write(FCR, fcr)
    port.write(IER, 1)
    outside: deque[int] = deque()
    offered = bytearray()
    got = bytearray()

    def feed() -> None:
        taken = port.uart.receive(bytes(outside))
        for _ in range(taken):
            outside.popleft()

    # The only other time that the outside tries: it must be told of all room that it needs.
    port.uart.on_room = feed
    for step in scenario:
        if isinstance(step, bytes):
            offered += step
            outside.extend(step)
            feed()
        else:
            for _ in range(step):
                if port.read(LSR) & 1:
                    got.append(port.read(DATA))
    while port.read(LSR) & 1:
        assert port.uart.irq
        got.append(port.read(DATA))
    assert not outside
    assert got == offered
    assert not port.uart.irq


@given(steps)
def test_the_line_is_high_exactly_while_iir_names_a_cause(scenario: list[Step]) -> None:
    port = WiredPort()
    for step in scenario:
        match step:
            case ("read", int(register), _):
                port.read(register)
            case ("write", int(register), int(value)):
                port.write(register, value)
            case ("receive", bytes(data)):
                port.uart.receive(data)
            case ("carrier", bool(present)):
                port.uart.set_carrier(present)
            case _:
                raise AssertionError(step)
        # The line changes, never repeats itself.
        assert port.irqs == [i % 2 == 0 for i in range(len(port.irqs))]
        before = port.uart.irq
        assert bool(port.read(2) & 1) is not before
