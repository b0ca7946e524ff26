# SPDX-License-Identifier: MIT
"""vhost-net as an engine: what it is told, and what ends its work. The kernel is one of our own."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError, UsageError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interface import GuestMapping, Memslot, MemslotFlag, Vm
from pyvmm.hosts.queue_engine import SplitQueue, Stopped
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.hardware import DescriptorNet, NetCard, UserNet, VhostChoice
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.network import vhost_pairs
from pyvmm.machine.network.vhost_pairs import open_pairs
from pyvmm.machine.virtio import vhost_engine
from pyvmm.machine.virtio.vhost_engine import VhostEngine, VhostQueue
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion
from pyvmm.net import vhost
from pyvmm.net.vhost import TRANSMIT, HostRegion, VhostNet, VhostRing
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.test_guest_memory import Kernel, Side0, sides

HANG = 60.0
LOW = GpaRange(0, 16 * PAGE_SIZE)
HIGH = GpaRange(1 << 32, (1 << 32) + 4 * PAGE_SIZE)
ROM = GpaRange(1 << 30, (1 << 30) + PAGE_SIZE)
FEATURES = vhost.NEEDED
RING = SplitQueue(256, PAGE_SIZE, 3 * PAGE_SIZE, 4 * PAGE_SIZE, True, True, 40, 40, -1, -1)


class FakeVhost:
    """A vhost-net that takes `chains` of each ring that it is started with."""

    def __init__(self) -> None:
        self.memory: list[HostRegion] = []
        self.features = 0
        self.started: list[tuple[int, VhostRing]] = []
        self.has_started = threading.Event()
        self.chains = 3
        self.at_stop: Callable[[], object] = lambda: None

    def set_up(self, features: int, memory: list[HostRegion]) -> None:
        self.features, self.memory = features, memory

    def start(self, number: int, ring: VhostRing) -> None:
        self.started.append((number, ring))
        self.has_started.set()

    def stop(self, number: int) -> int:
        assert number == self.started[-1][0]
        self.at_stop()
        return self.started[-1][1].position + self.chains & 0xFFFF


class Bench:
    """An engine over guest memory of two regions and a ROM."""

    def __init__(self, stack: ExitStack) -> None:
        kernel = Kernel()
        self.memory = GuestMemory(
            cast(Vm, kernel), honours_touches=False, wanted=lambda: False, is_over=lambda: False,
            patience=HANG,
        )  # fmt: skip
        self.memory.regions.add(sides(kernel, MemoryRegion(0, LOW, True, "RAM"), 0))
        self.memory.regions.add(sides(kernel, MemoryRegion(1, HIGH, False, "more RAM"), 0))
        slot = Memslot(2, ROM.start, ROM.size, 0x6000_0000, MemslotFlag.READONLY)
        rom = MemoryRegion(2, ROM, False, "ROM")
        mapping = cast(GuestMapping, Side0(kernel, "rom"))
        view = memoryview(bytearray(ROM.size))
        self.memory.regions.add(MemorySides(rom, slot, mapping, view, 0))
        self.hva = {
            one.region.range.start: one.memslot().hva for one in self.memory.regions.sides()
        }
        self.vhost = FakeVhost()
        self.bell = stack.enter_context(Eventfd())
        self.far_end, self.tap = os.pipe()
        stack.callback(os.close, self.tap)
        self.ended = 0
        self._stack = stack

    def engine(self, **changed: Any) -> VhostEngine:
        ring = RING._replace(doorbell=self.bell.fileno(), interrupt=77, **changed)
        vhost = cast(VhostNet, self.vhost)
        self.queue = VhostQueue(vhost, TRANSMIT, self.tap, FEATURES, "net 0", self._end)
        return self._stack.enter_context(self.queue.made(self.memory.leases, ring))

    def _end(self) -> None:
        self.ended += 1

    @contextmanager
    def running(self, engine: VhostEngine) -> Iterator[list[Stopped]]:
        """Run it on a thread from start to end of the block; what it has ended with, after it."""
        ended: list[Stopped] = []
        thread = threading.Thread(target=lambda: ended.append(engine.run()))
        thread.start()
        try:
            assert self.vhost.has_started.wait(HANG)
            yield ended
        finally:
            engine.kick()
            thread.join(HANG)
            assert not thread.is_alive()

    @property
    def holder(self) -> str | None:
        return self.memory.leases.holder_over(HIGH)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(vhost_engine, "TAP_PERIOD", 0.01)
    with ExitStack() as stack:
        made = Bench(stack)
        yield made
        if made.far_end >= 0:
            os.close(made.far_end)


def test_the_kernel_is_told_where_ring_and_memory_are_in_this_process(bench: Bench) -> None:
    engine = bench.engine()
    with bench.running(engine) as ended:
        assert bench.holder == "net 0"
        assert bench.vhost.features == FEATURES
        low, high = bench.hva[0], bench.hva[HIGH.start]
        assert bench.vhost.memory == [(0, LOW.size, low), (HIGH.start, HIGH.size, high)]
        [(number, ring)] = bench.vhost.started
        assert number == TRANSMIT
        places = (low + PAGE_SIZE, low + 3 * PAGE_SIZE, low + 4 * PAGE_SIZE)
        assert ring[:5] == (256, *places, 40)
        assert (ring.kick, ring.call, ring.tap) == (bench.bell.fileno(), 77, bench.tap)
        assert engine.position == (40, 40)
    assert ended == [Stopped.KICKED]
    assert engine.position == (43, 43)
    assert bench.holder is None
    bench.queue.looked_at(engine)
    assert not bench.ended


def test_positions_go_round(bench: Bench) -> None:
    engine = bench.engine(available=0xFFFE, used=0xFFFE)
    with bench.running(engine):
        pass
    assert engine.position == (1, 1)


def test_it_stops_for_whoever_wants_memory_who_finds_its_position(bench: Bench) -> None:
    engine = bench.engine()
    with bench.running(engine) as ended, bench.memory.leases.vacating(ROM) as rom:
        # Any memory: what a ring's buffers are in is not known.
        rom.wait("save")
        with bench.memory.leases.vacating(HIGH) as vacating:
            vacating.wait("save")
            assert engine.position == (43, 43)
            assert bench.holder is None
            # Nor does another begin meanwhile.
            assert bench.engine().run() is Stopped.VACATING
            assert len(bench.vhost.started) == 1
    assert ended == [Stopped.VACATING]


def test_one_that_does_not_stop_is_waited_for_and_named(bench: Bench) -> None:
    go_on = threading.Event()
    bench.vhost.at_stop = lambda: go_on.wait(HANG)
    bench.memory.leases.patience = 0
    with bench.running(bench.engine()), bench.memory.leases.vacating(HIGH) as vacating:
        with pytest.raises(LeaseHeldError, match="net 0 works on"):
            vacating.wait("save")
        go_on.set()


def test_a_tap_that_is_removed_is_told_of(bench: Bench) -> None:
    # A pipe without a reader says POLLERR, as a tap's descriptor does without its device.
    engine = bench.engine()
    with bench.running(engine) as ended:
        fd, bench.far_end = bench.far_end, -1
        os.close(fd)
        while not ended:
            time.sleep(0.001)
    bench.queue.looked_at(engine)
    assert (ended, bench.ended) == ([Stopped.KICKED], 1)


@pytest.mark.parametrize("is_removed", [True, False])
def test_a_tap_that_was_removed_before_the_kernel_began(bench: Bench, is_removed: bool) -> None:
    if is_removed:
        fd, bench.far_end = bench.far_end, -1
        os.close(fd)

    def refuse(number: int, ring: VhostRing) -> None:
        # As NET_SET_BACKEND does whose tap says POLLERR, or for some other reason.
        raise SystemCallError("have it served", errno.EINVAL, "Invalid argument")

    bench.vhost.start = refuse  # type: ignore[method-assign]
    engine = bench.engine()
    if is_removed:
        assert engine.run() is Stopped.KICKED
    else:
        with pytest.raises(SystemCallError):
            engine.run()
    bench.queue.looked_at(engine)
    assert bench.ended == is_removed
    assert engine.position == (40, 40)
    assert bench.holder is None


def test_a_kick_before_the_run_ends_it(bench: Bench) -> None:
    engine = bench.engine()
    engine.kick()
    assert engine.run() is Stopped.KICKED


def test_a_ring_that_the_kernel_cannot_understand_is_broken(bench: Bench) -> None:
    with bench.running(bench.engine()) as ended:
        os.eventfd_write(bench.vhost.started[0][1].error, 1)
    assert ended == [Stopped.BROKEN]


@pytest.mark.parametrize(
    "changed",
    [
        {"descriptors": LOW.end - 16},
        {"driver": ROM.start},
        {"device": HIGH.end - 8},
        {"device": 1 << 63},
    ],
    ids=["across a region", "read-only", "beyond", "nowhere"],
)
def test_a_ring_that_is_not_in_one_region_is_broken(bench: Bench, changed: dict[str, int]) -> None:
    assert bench.engine(**changed).run() is Stopped.BROKEN
    assert not bench.vhost.started
    assert bench.holder is None


def test_private_memory_is_never_handed_over(bench: Bench) -> None:
    bench.memory.conversion.convert(8 * PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
    assert bench.engine().run() is Stopped.BROKEN
    assert not bench.vhost.started


# -- opening --


class Tap:
    """A wire of two queues."""

    descriptors: tuple[int, ...] = (7, 8)


def opened(choice: VhostChoice, against: str = "", wire: Tap | None = None) -> int:
    with ExitStack() as stack:
        card = NetCard(DescriptorNet((7, 8), choice))
        return len(open_pairs(card, cast(Any, wire or Tap()), 3, stack, against=against))


def test_one_for_each_pair_and_closed_by_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[VhostNet] = []

    def open_one() -> VhostNet:
        made.append(VhostNet(os.open(os.devnull, os.O_RDWR), lambda *_: 0))
        return made[-1]

    monkeypatch.setattr(vhost_pairs, "open_vhost", open_one)
    assert opened(VhostChoice.OFF) == 0
    assert not made
    assert opened(VhostChoice.AUTO) == opened(VhostChoice.ON) == 2
    assert [one.fileno() for one in made] == [-1] * 4
    with ExitStack() as stack:
        assert open_pairs(NetCard(UserNet()), cast(Any, Tap()), 0, stack) == ()


def test_what_speaks_against_it_is_told_where_it_is_insisted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vhost_pairs, "open_vhost", lambda: pytest.fail("opened"))
    captured = Tap()
    captured.descriptors = ()
    assert opened(VhostChoice.AUTO, "it is private") == 0
    assert opened(VhostChoice.AUTO, wire=captured) == 0
    with pytest.raises(UsageError, match=r"net 3 vhost-net: it is private; give vhost=off"):
        opened(VhostChoice.ON, "it is private")
    with pytest.raises(UsageError, match="capture"):
        opened(VhostChoice.ON, wire=captured)


@pytest.mark.parametrize("kind", [HostLacksError, NoPermissionError])
def test_a_host_without_it(
    monkeypatch: pytest.MonkeyPatch, kind: type[HostLacksError | NoPermissionError]
) -> None:
    def refuse() -> VhostNet:
        raise kind("open /dev/vhost-net", "there is none")

    monkeypatch.setattr(vhost_pairs, "open_vhost", refuse)
    assert opened(VhostChoice.AUTO) == 0
    with pytest.raises(kind, match="there is none"):
        opened(VhostChoice.ON)
