# SPDX-License-Identifier: MIT
"""The core under any accesses in any order, beside what the specification says of its status."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from tests.devices.virtio.a_model import PlainModel

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80
WRITABLE = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED
QUEUES = (256, 16)
VALUES = st.sampled_from([0, 1, 3, 7, 16, 256, 512, 0x1000, 0x1008, 0xFFFF_FFFF, 1 << 63])
BEGINNINGS = st.sampled_from([[], [("negotiate",)], [("set up",)]])
ANY = st.lists(
    st.one_of(
        st.tuples(st.just("status"), st.sampled_from([0, 1, 3, 11, 15, 4, 8, 0x40, 0x80, 0xFF])),
        st.tuples(st.just("features"), st.integers(0, 2), st.sampled_from([0, 1, 3, 5, 1 << 9])),
        st.tuples(st.just("size"), st.integers(0, 2), VALUES),
        st.tuples(st.just("address"), st.integers(0, 2), st.integers(0, 2), VALUES),
        st.tuples(st.just("enable"), st.integers(0, 2), st.booleans()),
        st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["fail", "config", "used", "restore"])),
        st.sampled_from([("set up",), ("negotiate",)]),
        st.just(("status", 0)),
        st.just(("begin", 0)),
    ),
    max_size=40,
)
STEPS = st.tuples(BEGINNINGS, ANY).map(lambda parts: [*parts[0], *parts[1]])
"""Steps, most of them from where random ones seldom get."""


class Steps:
    """A core, and what it must be."""

    def __init__(self) -> None:
        self.interrupts = 0
        self.core = self._new()
        self.offered = self.core.offered(0) | self.core.offered(1) << 32
        self.busy: set[int] = set()
        self.frozen: dict[int, Any] = {}

    def _new(self) -> VirtioCore:
        core = VirtioCore(PlainModel(), private=True, more=Feature.PACKED)
        core.on_interrupt = self._count
        return core

    def _count(self, queue: int | None) -> None:
        self.interrupts += 1
        assert self.core.status & DRIVER_OK

    def take(self, name: str, *values: Any) -> None:
        before, interrupts = self.core.status, self.interrupts
        resetting, epoch = self.core.is_resetting, self.core.epoch
        getattr(self, "do_" + name.replace(" ", "_"))(*values)
        if name in ("status", "begin", "end", "restore", "set up", "negotiate"):
            return
        # Nothing else sets a bit but the device's own.
        assert self.core.status & ~NEEDS_RESET == before & ~NEEDS_RESET
        assert (self.core.is_resetting, self.core.epoch) == (resetting, epoch)
        if name not in ("fail", "config", "used", "enable"):
            assert self.interrupts == interrupts

    def do_status(self, value: int) -> None:
        before, features = self.core.status, self.core.features
        resetting = self.core.is_resetting
        self.core.write_status(value)
        after = self.core.status
        if resetting:
            assert after == before
        elif not value:
            assert after == (before if self.busy else 0)
            self.frozen.clear()
        else:
            assert after & ~before & ~value == 0
            assert after & before == before
            assert after & ~WRITABLE == before & NEEDS_RESET
            if after & FEATURES_OK and not before & FEATURES_OK:
                assert not self.core.features & ~self.offered
                assert self.core.features & Feature.VERSION_1
                assert self.core.features & Feature.ACCESS_PLATFORM
            elif features:
                assert self.core.features == features

    def do_features(self, word: int, value: int) -> None:
        features = self.core.features
        self.core.acknowledge(word, value)
        assert self.core.features == features

    def do_size(self, number: int, value: int) -> None:
        queue = self.core.queue(number)
        assert (queue is None) == (number >= len(QUEUES))
        if queue is not None:
            before = queue.place
            queue.set_size(value)
            assert queue.place == (before._replace(size=value) if self.is_time(number) else before)

    def do_address(self, number: int, part: int, value: int) -> None:
        queue = self.core.queue(number)
        if queue is not None:
            before = queue.place
            queue.set_address(part, value)
            assert queue.place[1 + part] == (value if self.is_time(number) else before[1 + part])

    def is_time(self, number: int) -> bool:
        """Between FEATURES_OK and DRIVER_OK, of a queue that is not enabled."""
        queue = self.core.queue(number)
        assert queue is not None
        bits = self.core.status & (FEATURES_OK | DRIVER_OK | NEEDS_RESET)
        return bits == FEATURES_OK and not queue.is_enabled and not self.core.is_resetting

    def do_enable(self, number: int, enabled: bool) -> None:
        queue = self.core.queue(number)
        may, was = queue is not None and self.is_time(number), queue and queue.is_enabled
        self.core.enable(number, enabled=enabled)
        if queue is None or not enabled:
            return
        if not may:
            assert queue.is_enabled == was
        elif queue.place.size > queue.most:
            assert self.core.needs_reset

    def do_begin(self, number: int) -> None:
        # A backend begins where a queue runs, and not twice.
        if self.core.running(number) is not None and number not in self.busy:
            assert self.core.begin(number) == self.core.epoch
            self.busy.add(number)

    def do_end(self, number: int) -> None:
        resetting, before = self.core.is_resetting, self.core.status
        self.core.end(number)
        self.busy.discard(number)
        assert self.core.is_resetting == (resetting and bool(self.busy))
        assert self.core.status == (0 if resetting and not self.busy else before)

    def do_fail(self) -> None:
        self.core.fail()

    def do_config(self) -> None:
        generation = self.core.generation
        self.core.config_changed()
        assert self.core.generation == generation + 1

    def do_used(self) -> None:
        self.core.interrupt(0)

    def do_restore(self) -> None:
        """Go on in another one, where nobody is at work: that is when a machine is saved."""
        if self.busy:
            return
        saved = self.core.save()
        other = self._new()
        self.core = other
        other.restore(saved)
        assert other.save() == saved

    def do_negotiate(self) -> None:
        """Get to FEATURES_OK."""
        self.do_status(0)
        if not self.core.is_resetting:
            self.core.write_status(3)
            self.core.acknowledge(1, 3)
            self.core.write_status(11)
            assert self.core.status == 11

    def do_set_up(self) -> None:
        """Get as far as can be."""
        self.do_negotiate()
        if self.core.is_resetting:
            return
        for number, size in enumerate(QUEUES):
            queue = self.core.queue(number)
            assert queue is not None
            queue.set_size(size)
            for part in range(3):
                queue.set_address(part, 0x10000 * (1 + part))
            self.core.enable(number)
        self.core.write_status(15)
        assert self.core.status == 15
        assert list(self.core.running_queues()) == [0, 1]

    def look(self) -> None:
        """What holds always."""
        status = self.core.status
        for number, most in enumerate(QUEUES):
            layout = self.core.running(number)
            if layout is not None:
                assert status & (DRIVER_OK | FEATURES_OK) == DRIVER_OK | FEATURES_OK
                assert not status & NEEDS_RESET
                assert not self.core.is_resetting
                assert layout.is_possible
                assert layout.place.size <= most
                assert self.frozen.setdefault(number, layout) == layout
        if status & DRIVER_OK:
            assert status & FEATURES_OK
        if not self.core.is_resetting and not status & FEATURES_OK:
            assert self.core.features == 0


@example([("set up",), ("begin", 0), ("status", 0), ("status", 3), ("end", 0)])
@example([("set up",), ("begin", 0), ("begin", 1), ("status", 0), ("end", 0), ("end", 1)])
@example([("negotiate",), ("size", 0, 512), ("enable", 0, True)])
@given(STEPS)
def test_any_steps_lead_to_what_the_specification_allows(steps: list[tuple[Any, ...]]) -> None:
    made = Steps()
    for name, *values in steps:
        made.take(name, *values)
        made.look()
