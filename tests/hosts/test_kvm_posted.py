# SPDX-License-Identifier: MIT
"""Posted port accesses: in order, never lost, never twice, whatever else happens."""

from __future__ import annotations

import threading

import pytest

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.kvm.posted import PostedRing
from tests.readable import is_readable, wait_readable

from .flat_guest import COUNT_TO_F1, ENTRY, MakeGuest, enter_at

pytestmark = pytest.mark.kvm

BYTES = [number & 0xFF for number in range(4096)]


def test_posted_and_ordinary_writes_keep_their_order(guest: MakeGuest) -> None:
    # `out 0x61, al; inc al; out 0x61, al; inc al; out 0x62, al; out 0x63, al; out 0x61, al; hlt`
    made = guest(bytes.fromhex("e661 fec0 e661 fec0 e662 e663 e661 f4"))
    ring = made.vm.posted
    for port in (0x61, 0x62):
        made.vm.posted.post_port(port, write=True, read_value=None)
    assert not is_readable(ring)
    assert made.vcpu.run() == exits.IoOut(0x63, 1, 1, b"\x02")
    assert is_readable(ring)
    assert ring.drain() == [(0x61, b"\x00\x01"), (0x62, b"\x02")]
    assert not is_readable(ring)
    assert made.vcpu.run() == exits.Hlt()
    assert ring.drain() == [(0x61, b"\x02")]
    assert ring.drain() == []
    assert made.vcpu.exit_counts() == {"IO": 1, "HLT": 1, "POSTED_WRITE": 4}


def test_only_single_bytes_are_posted(guest: MakeGuest) -> None:
    # `out 0x61, ax; out 0x61, eax; rep outsb (dx = 0x61); hlt`
    made = guest(bytes.fromhex("e761 66e761 ba6100 b90200 f36e f4"))
    made.vm.posted.post_port(0x61, write=True, read_value=None)
    assert made.vcpu.run() == exits.IoOut(0x61, 2, 1, b"\0\0")
    assert made.vcpu.run() == exits.IoOut(0x61, 4, 1, b"\0\0\0\0")
    total = 0
    while isinstance(out := made.vcpu.run(), exits.IoOut):
        assert out.count > 1
        total += out.count
    assert total + sum(len(data) for _, data in made.vm.posted.drain()) == 2


def test_posted_reads(guest: MakeGuest) -> None:
    # `in al, 0x65; out 0x61, al; in al, 0x66; hlt`
    made = guest(bytes.fromhex("e465 e661 e466 f4"))
    made.vm.posted.post_port(0x65, write=False, read_value=0x60)
    made.vm.posted.post_port(0x66, write=True, read_value=None)  # its reads stay ordinary
    assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\x60")
    assert made.vcpu.run() == exits.IoIn(0x66, 1, 1)
    made.vcpu.answer(b"\0")
    assert made.vcpu.run() == exits.Hlt()
    assert made.vcpu.exit_counts() == {"IO": 2, "HLT": 1, "POSTED_READ": 1}


def test_a_port_can_become_ordinary_again(guest: MakeGuest) -> None:
    # `out 0x61, al; out 0x62, al; out 0x61, al`
    made = guest(bytes.fromhex("e661 e662 e661"))
    made.vm.posted.post_port(0x61, write=True, read_value=0)
    assert made.vcpu.run() == exits.IoOut(0x62, 1, 1, b"\0")
    made.vm.posted.post_port(0x61, write=False, read_value=None)
    assert made.vcpu.run() == exits.IoOut(0x61, 1, 1, b"\0")
    assert made.vm.posted.drain() == [(0x61, b"\0")]


@pytest.mark.parametrize("capacity", [1, 2, 64])
def test_a_full_ring_loses_nothing_and_doubles_nothing(guest: MakeGuest, capacity: int) -> None:
    made = guest(COUNT_TO_F1, posted_capacity=capacity)
    made.vm.posted.post_port(0xF1, write=True, read_value=None)
    values: list[int] = []
    while len(values) < 4 * capacity + 300:
        assert made.vcpu.run() == exits.PostedFull()
        assert made.vcpu.run() == exits.PostedFull()  # as long as nobody drains
        made.vcpu.kick()
        assert made.vcpu.run() == exits.Interrupted()
        assert made.vcpu.complete()  # must not complete what was not taken
        taken = made.vm.posted.drain()
        assert [port for port, _ in taken] == [0xF1]
        assert len(taken[0][1]) == capacity
        values += taken[0][1]
        # Who has completed gets what was kept, and no further.
        assert made.vcpu.run() == exits.Interrupted()
    assert values == [number & 0xFF for number in range(len(values))]
    made.vm.posted.post_port(0xF1, write=False, read_value=None)
    kept, after = len(values) & 0xFF, len(values) + 1 & 0xFF
    assert made.vcpu.run() == exits.IoOut(0xF1, 1, 1, bytes([after]))
    assert made.vm.posted.drain() == [(0xF1, bytes([kept]))]


def test_drained_while_it_runs(guest: MakeGuest) -> None:
    made = guest(COUNT_TO_F1, posted_capacity=16)
    made.vm.posted.post_port(0xF1, write=True, read_value=None)
    ring = made.vm.posted
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            assert made.vcpu.run() in {exits.PostedFull(), exits.Interrupted()}

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    values = bytearray()
    while len(values) < len(BYTES):
        wait_readable(ring)
        for port, data in ring.drain():
            assert port == 0xF1
            values += data
    stop.set()
    made.vcpu.kick()
    thread.join()
    assert list(values[: len(BYTES)]) == BYTES


def test_two_vcpus_each_in_order(guest: MakeGuest) -> None:
    made = guest(COUNT_TO_F1, posted_capacity=256)
    # `mov dx, 0xf2; l: out dx, al; inc al; jmp l`
    made.write(0x2000, bytes.fromhex("ba f200 ee fec0 ebfb"))
    with made.vm.create_vcpu(1) as other:
        other.use_host_cpuid()
        enter_at(other, made.vcpu.get_regs())
        regs = other.get_regs()
        assert regs.rip == ENTRY
        other.set_regs(type(regs)(rip=0x2000))
        from pyvmm.hosts.kvm.vcpu_values import MpState

        other.set_mp_state(MpState.RUNNABLE)
        for port in (0xF1, 0xF2):
            made.vm.posted.post_port(port, write=True, read_value=None)
        stop = threading.Event()

        def run(vcpu: object) -> None:
            while not stop.is_set():
                assert vcpu.run() in {exits.PostedFull(), exits.Interrupted()}  # type: ignore

        threads = [
            threading.Thread(target=run, args=(vcpu,), daemon=True) for vcpu in (made.vcpu, other)
        ]
        for thread in threads:
            thread.start()
        streams: dict[int, bytearray] = {0xF1: bytearray(), 0xF2: bytearray()}
        while min(len(stream) for stream in streams.values()) < 2000:
            wait_readable(made.vm.posted)
            for port, data in made.vm.posted.drain():
                streams[port] += data
        stop.set()
        for vcpu in (made.vcpu, other):
            vcpu.kick()
        for thread in threads:
            thread.join()
    for stream in streams.values():
        assert list(stream) == [number & 0xFF for number in range(len(stream))]


def test_writes_are_still_there_after_close(guest: MakeGuest) -> None:
    # `out 0x61, al; hlt; out 0x61, al; hlt`
    made = guest(bytes.fromhex("e661 f4 e661 f4"))
    made.vm.posted.post_port(0x61, write=True, read_value=None)
    assert made.vcpu.run() == exits.Hlt()
    made.vm.close()
    assert made.vm.posted.fileno() == -1
    assert made.vcpu.run() == exits.Hlt()
    assert made.vm.posted.drain() == [(0x61, b"\0\0")]


def test_rules_that_cannot_be(guest: MakeGuest) -> None:
    posted = guest(COUNT_TO_F1).vm.posted
    with pytest.raises(UsageError):
        posted.post_port(0x10000, write=True, read_value=None)
    with pytest.raises(UsageError):
        posted.post_port(0x61, write=False, read_value=256)
    for capacity in (0, 3, 131072):
        with pytest.raises(SystemCallError):
            PostedRing(capacity)
