# SPDX-License-Identifier: MIT
"""Lines, messages and doorbells, on every host alike, with a guest that takes its interrupts."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts import exits, interface
from pyvmm.hosts.interrupts import DoorbellPlace, Msi, SavedMessage, Trigger
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.owner import Owned
from tests.hosts.interleaving import call_with_another_at
from tests.hosts.interrupt_guest import (
    APIC,
    EDGE_PIN,
    HIGH,
    LEVEL_PIN,
    LOW,
    SLAVE_PIN,
    Guest,
    running,
    vector_of,
    waiting,
)
from tests.hosts.model.small_guest import SIZE
from tests.readable import is_readable, wait_readable


@pytest.fixture(
    params=[
        pytest.param(System, marks=pytest.mark.kvm, id="kvm"),
        pytest.param(ModelSystem, id="model"),
    ]
)
def system(request: pytest.FixtureRequest) -> Iterator[interface.System]:
    with request.param() as system:
        yield system


@pytest.fixture
def guest(system: interface.System) -> Iterator[Guest]:
    with waiting(system) as guest:
        yield guest


LOW_MESSAGE, HIGH_MESSAGE = Msi(APIC, LOW), Msi(APIC, HIGH)
EDGE, LEVEL = vector_of(EDGE_PIN), vector_of(LEVEL_PIN)


class Device:
    """A device with a level-triggered line that resamples: it interrupts once for each reason."""

    def __init__(self, vm: interface.Vm, pin: int) -> None:
        self.line = vm.create_line(pin, Trigger.LEVEL, "the test device", resample=True)
        self.reasons = 0

    def add(self, reasons: int) -> None:
        self.reasons += reasons
        self.line.raise_()

    def look(self) -> None:
        """The guest has ended an interrupt: if there is another reason, again."""
        wait_readable(self.line)
        assert self.line.drain() == 1
        assert not is_readable(self.line)
        self.reasons -= 1
        if self.reasons:
            self.line.raise_()


def test_each_pulse_is_one_interrupt(guest: Guest) -> None:
    with guest.vm.create_line(EDGE_PIN, Trigger.EDGE, "the test device") as line:
        for _ in range(3):
            line.pulse()
            guest.serves(EDGE)
        line.pulse()
        guest.takes(EDGE)
        line.pulse()  # in the middle of the handler: comes after it
        guest.ends(EDGE)
        guest.serves(EDGE)


def test_a_level_interrupts_as_long_as_it_is_held_up(guest: Guest) -> None:
    with guest.vm.create_line(LEVEL_PIN, Trigger.LEVEL, "the test device") as line:
        line.raise_()
        guest.serves(LEVEL)
        guest.takes(LEVEL)
        line.lower()
        guest.ends(LEVEL)
        with guest.vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other:
            other.pulse()
            guest.serves(EDGE)


@pytest.mark.parametrize("pin", [LEVEL_PIN, SLAVE_PIN])
def test_the_guest_s_end_of_interrupt_lowers_a_line_and_tells(guest: Guest, pin: int) -> None:
    device = Device(guest.vm, pin)
    with device.line, guest.vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other:
        device.add(3)
        for _ in range(3):
            assert not is_readable(device.line)
            guest.serves(vector_of(pin))
            device.look()
        other.pulse()
        guest.serves(EDGE)
        assert not is_readable(device.line)


def test_a_reset_lowers_a_line_that_resamples(guest: Guest) -> None:
    device = Device(guest.vm, LEVEL_PIN)
    with device.line, guest.vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other:
        device.line.raise_()
        device.line.lower()
        for _ in range(3):
            other.pulse()
            guest.serves(EDGE)
        assert not is_readable(device.line)
        device.add(1)
        guest.serves(LEVEL)
        device.look()


def test_two_on_one_level_hold_it_up_together(guest: Guest) -> None:
    vm = guest.vm
    with (
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "one", shared=True) as one,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "two", shared=True) as two,
        vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other,
    ):
        one.raise_()
        two.raise_()
        one.lower()
        guest.takes(LEVEL)
        two.lower()
        guest.ends(LEVEL)
        other.pulse()
        guest.serves(EDGE)


def test_two_that_resample_are_told_both(guest: Guest) -> None:
    vm = guest.vm
    with (
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "one", shared=True, resample=True) as one,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "two", shared=True, resample=True) as two,
    ):
        one.raise_()
        guest.serves(LEVEL)
        wait_readable(two)
        assert one.drain() == two.drain() == 1
        two.raise_()
        guest.serves(LEVEL)


@pytest.mark.parametrize("how", ["lower", "close"])
def test_one_of_two_that_resample_goes_down_alone(guest: Guest, how: str) -> None:
    vm = guest.vm
    with (
        vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "one", shared=True, resample=True) as one,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "two", shared=True, resample=True) as two,
    ):
        one.raise_()
        getattr(one, how)()
        for _ in range(2):
            other.pulse()
            guest.serves(EDGE)
        two.drain()
        two.raise_()
        guest.serves(LEVEL)
        wait_readable(two)


@pytest.mark.parametrize("how", ["lower", "close"])
def test_who_holds_the_line_up_as_well_holds_it_up_still_or_is_told(guest: Guest, how: str) -> None:
    vm = guest.vm
    with (
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "one", shared=True, resample=True) as one,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "two", shared=True, resample=True) as two,
    ):
        one.raise_()
        two.raise_()
        getattr(one, how)()
        if is_readable(two):
            two.drain()
            two.raise_()
        guest.serves(LEVEL)
        wait_readable(two)


def test_the_end_of_interrupt_lowers_those_that_resample_alone(guest: Guest) -> None:
    vm = guest.vm
    with (
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "one", shared=True) as held,
        vm.create_line(LEVEL_PIN, Trigger.LEVEL, "two", shared=True, resample=True) as resampled,
        vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other,
    ):
        held.raise_()
        resampled.raise_()
        guest.serves(LEVEL)
        wait_readable(resampled)
        guest.takes(LEVEL)
        held.lower()
        guest.ends(LEVEL)
        other.pulse()
        guest.serves(EDGE)


def test_a_line_that_goes_away_goes_down(guest: Guest) -> None:
    vm = guest.vm
    for resample in (False, True):
        line = vm.create_line(LEVEL_PIN, Trigger.LEVEL, "the test device", resample=resample)
        line.raise_()
        guest.takes(LEVEL)
        line.close()
        line.close()
        guest.ends(LEVEL)
        with pytest.raises(UsageError, match="has been closed"):
            line.raise_()
        with vm.create_line(EDGE_PIN, Trigger.EDGE, "another") as other:
            other.pulse()
            guest.serves(EDGE)
    # The pin is free.
    vm.create_line(LEVEL_PIN, Trigger.EDGE, "another").close()


def test_messages_are_delivered(guest: Guest) -> None:
    with guest.vm.create_message("one") as low, guest.vm.create_message("two") as high:
        with guest.vm.changing_routes():
            low.route(LOW_MESSAGE)
            high.route(HIGH_MESSAGE)
        for message in (low, high):
            message.unmask()
        for _ in range(2):
            low.signal()
            guest.serves(LOW)
            high.signal()
            guest.serves(HIGH)
        low.route(HIGH_MESSAGE)  # under way
        low.signal()
        guest.serves(HIGH)


def test_a_masked_message_waits_shows_and_comes_once(guest: Guest) -> None:
    with guest.vm.create_message("one") as low, guest.vm.create_message("two") as high:
        low.route(LOW_MESSAGE)
        high.route(HIGH_MESSAGE)
        low.unmask()
        assert not high.is_pending
        for _ in range(2):
            high.signal()
            assert high.is_pending
        low.signal()
        assert not low.is_pending
        guest.serves(LOW)  # and not the higher one, which is masked
        high.unmask()
        assert not high.is_pending
        guest.serves(HIGH)
        low.signal()
        guest.serves(LOW)  # once for two signals
        # Masking again does not bring back what has been delivered.
        high.mask()
        assert not high.is_pending
        high.unmask()
        low.signal()
        guest.serves(LOW)
        high.signal()
        guest.serves(HIGH)


def test_masking_in_the_middle_loses_nothing_and_doubles_nothing(guest: Guest) -> None:
    with guest.vm.create_message("one") as high, guest.vm.create_message("two") as low:
        high.route(HIGH_MESSAGE)
        low.route(LOW_MESSAGE)
        low.unmask()
        over = threading.Event()

        def churn() -> None:
            while not over.is_set():
                high.unmask()
                high.mask()
            high.unmask()

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(30):
                high.signal()
                guest.serves(HIGH)
        finally:
            over.set()
            thread.join()
        low.signal()
        guest.serves(LOW)


def test_what_is_signalled_before_there_is_a_route_waits_for_it(guest: Guest) -> None:
    with guest.vm.create_message("one") as message:
        message.signal()
        assert message.is_pending
        message.route(LOW_MESSAGE)
        with guest.vm.changing_routes():
            message.unmask()
        guest.serves(LOW)


def test_a_message_elsewhere_than_to_an_apic_gets_nowhere(guest: Guest) -> None:
    with guest.vm.create_message("one") as stray, guest.vm.create_message("two") as low:
        stray.route(Msi(0x1000, HIGH))
        low.route(LOW_MESSAGE)
        for message in (stray, low):
            message.unmask()
            message.signal()
        guest.serves(LOW)


def test_a_message_is_saved_with_what_it_keeps(guest: Guest) -> None:
    vm = guest.vm
    with vm.create_message("one") as message, vm.create_message("two") as other:
        assert message.save() == SavedMessage(None, True, False)
        message.route(HIGH_MESSAGE)
        message.signal()
        saved = message.save()
        assert saved == SavedMessage(HIGH_MESSAGE, True, True)
        message.unmask()
        guest.serves(HIGH)
        assert message.save() == SavedMessage(HIGH_MESSAGE, False, False)
        other.restore(saved)
        assert other.is_pending
        other.unmask()
        guest.serves(HIGH)
        other.restore(SavedMessage(LOW_MESSAGE, False, True))
        guest.serves(LOW)
        other.signal()
        guest.serves(LOW)
        other.mask()
        other.signal()
        other.restore(SavedMessage(HIGH_MESSAGE, True, False))
        assert not other.is_pending


def test_what_a_message_has_sent_is_in_the_saved_vcpu(guest: Guest) -> None:
    with guest.vm.create_message("one") as message:
        message.route(HIGH_MESSAGE)
        message.unmask()
        guest.vcpu.complete()
        message.signal()
        message.save()
        saved = guest.vcpu.save()
        guest.serves(HIGH)
        guest.vcpu.complete()
        guest.vcpu.restore(saved)
        guest.serves(HIGH)


def test_a_message_that_goes_away_takes_what_it_keeps_along(guest: Guest) -> None:
    kept = guest.vm.create_message("one")
    kept.route(HIGH_MESSAGE)
    kept.signal()
    kept.close()
    kept.close()
    with guest.vm.create_message("two") as message:
        message.route(LOW_MESSAGE)
        message.unmask()
        message.signal()
        guest.serves(LOW)
    assert not kept.is_pending
    for action in (kept.signal, kept.mask, kept.unmask, kept.save):
        with pytest.raises(InternalError, match="message of one: it has been closed"):
            action()


RING_PORT = "mov $0x42, %al; out %al, $0x61; inc %al; out %al, $0x61; out %al, $0x62; hlt"
RING_STRING = "xor %esi, %esi; mov $3, %ecx; mov $0x61, %edx; rep outsb; out %al, $0x62; hlt"
RING_GPA = f"movl $0x42, {SIZE:#x}; movl $0x43, {SIZE:#x}; movw $0x42, {SIZE:#x}; hlt"


@pytest.mark.parametrize("value", [None, 0x42])
def test_a_port_rings(system: interface.System, value: int | None) -> None:
    with running(system, RING_PORT, interrupts=False) as guest:
        place = DoorbellPlace(0x61, 1, is_port=True, value=value)
        with guest.vm.create_doorbell(place, "the test device") as bell:
            assert bell.drain() == 0
            if value is not None:
                assert guest.next() == exits.IoOut(0x61, 1, 1, b"\x43")
            assert guest.next() == exits.IoOut(0x62, 1, 1, b"\x43")
            assert is_readable(bell)
            assert bell.drain() == (2 if value is None else 1)
            assert not is_readable(bell)
            assert guest.next() == exits.Hlt()


def test_a_string_of_writes_rings_for_each(system: interface.System) -> None:
    with running(system, RING_STRING, interrupts=False) as guest:
        place = DoorbellPlace(0x61, 1, is_port=True, value=0)
        with guest.vm.create_doorbell(place, "the test device") as bell:
            assert isinstance(guest.next(), exits.IoOut)
            assert bell.drain() == 3


def test_a_doorbell_closes_while_it_is_rung(system: interface.System) -> None:
    with running(system, "1: out %al, $0x61; jmp 1b", interrupts=False) as guest:
        place = DoorbellPlace(0x61, 1, is_port=True)
        seen: list[exits.Exit] = []
        for _ in range(3):
            # Rung until it is closed, from when on a write is an exit.
            bell = guest.vm.create_doorbell(place, "the test device")
            closer = threading.Thread(target=lambda bell=bell: (wait_readable(bell), bell.close()))
            closer.start()
            seen.append(guest.next())
            closer.join()
        assert seen == [exits.IoOut(0x61, 1, 1, b"\0")] * 3


@pytest.mark.parametrize("value", [None, 0x42])
def test_a_gpa_rings(system: interface.System, value: int | None) -> None:
    with running(system, RING_GPA, interrupts=False) as guest:
        place = DoorbellPlace(SIZE, 4, is_port=False, value=value)
        with guest.vm.create_doorbell(place, "the test device") as bell:
            if value is not None:
                assert guest.next() == exits.MmioWrite(SIZE, b"\x43\0\0\0")
            assert guest.next() == exits.MmioWrite(SIZE, b"\x42\0")
            assert bell.drain() == (2 if value is None else 1)
            assert guest.next() == exits.Hlt()


def test_doorbells_by_value_share_a_place_and_a_closed_one_rings_no_more(
    system: interface.System,
) -> None:
    with running(system, RING_PORT + "; jmp .", interrupts=False) as guest:
        places = [DoorbellPlace(0x61, 1, is_port=True, value=value) for value in (0x42, 0x43)]
        first, second = (guest.vm.create_doorbell(place, "the test device") for place in places)
        second.close()
        second.close()
        assert (second.fileno(), second.drain()) == (-1, 0)
        assert guest.next() == exits.IoOut(0x61, 1, 1, b"\x43")
        assert first.drain() == 1
        guest.vm.create_doorbell(places[1], "another").close()
        first.close()


@pytest.mark.parametrize(
    "place",
    [
        DoorbellPlace(0x61, 8, is_port=True),
        DoorbellPlace(0x61, 0, is_port=True),
        DoorbellPlace(0xFFFF, 2, is_port=True),
        DoorbellPlace((1 << 64) - 4, 8, is_port=False),
        DoorbellPlace(-1, 1, is_port=False),
        DoorbellPlace(0x61, 1, is_port=True, value=0x100),
        DoorbellPlace(0x61, 1, is_port=True, value=-1),
    ],
    ids=str,
)
def test_a_doorbell_that_cannot_be_is_refused(
    system: interface.System, place: DoorbellPlace
) -> None:
    with system.create_vm() as vm:
        with pytest.raises(UsageError, match="put a doorbell of the test device at"):
            vm.create_doorbell(place, "the test device")


def test_what_is_taken_twice_names_both(system: interface.System) -> None:
    with system.create_vm() as vm:
        vm.create_irqchip()
        with vm.create_line(4, Trigger.LEVEL, "the console", shared=True):
            for trigger, shared, cause in (
                (Trigger.LEVEL, False, "the console has it"),
                (Trigger.EDGE, True, "the console drives it by level"),
            ):
                with pytest.raises(UsageError, match=f"give GSI 4 to the disk: {cause}"):
                    vm.create_line(4, trigger, "the disk", shared=shared)
        with vm.create_line(4, Trigger.LEVEL, "the disk"):
            with pytest.raises(UsageError, match="GSI 4 to the console: the disk has it"):
                vm.create_line(4, Trigger.LEVEL, "the console", shared=True)
        place = DoorbellPlace(0x61, 1, is_port=True)
        with vm.create_doorbell(place, "the console"):
            with pytest.raises(UsageError, match=r"of the disk at port 0x61.*the console has one"):
                vm.create_doorbell(DoorbellPlace(0x61, 1, is_port=True, value=3), "the disk")


def test_what_a_line_is_not_for_is_refused(system: interface.System) -> None:
    with system.create_vm() as vm:
        vm.create_irqchip()
        for gsi in (-1, 24, 1 << 32):
            with pytest.raises(UsageError, match="pins 0 to 23"):
                vm.create_line(gsi, Trigger.EDGE, "the disk")
        with pytest.raises(UsageError, match="pulsed is not resampled"):
            vm.create_line(5, Trigger.EDGE, "the disk", resample=True)
        with vm.create_line(3, Trigger.EDGE, "the disk") as edge:
            for action in (edge.raise_, edge.lower, edge.fileno, edge.drain):
                with pytest.raises(UsageError, match=r"GSI 3 of the disk.*by edge"):
                    action()
        with vm.create_line(5, Trigger.LEVEL, "the disk") as level:
            for action in (level.pulse, level.fileno, level.drain):
                with pytest.raises(UsageError, match=r"GSI 5 of the disk.*by level"):
                    action()
        with vm.create_line(5, Trigger.LEVEL, "the disk", resample=True) as resampled:
            with pytest.raises(UsageError, match="GSI 5 of the disk"):
                resampled.pulse()


def test_a_doorbell_that_two_threads_close_is_closed_once(system: interface.System) -> None:
    place = DoorbellPlace(0x61, 1, is_port=True)
    with system.create_vm() as vm:
        for step in range(1, 16):
            doorbell = vm.create_doorbell(place, "the disk")
            close = type(doorbell).close.__code__
            call_with_another_at(step, close, doorbell.close, doorbell.close)
            assert doorbell.fileno() == -1


def test_without_controllers_there_are_doorbells_only(system: interface.System) -> None:
    with system.create_vm() as vm:
        for make in (
            lambda: vm.create_line(4, Trigger.EDGE, "the disk"),
            lambda: vm.create_message("the disk"),
            vm.changing_routes,
        ):
            with pytest.raises(SystemCallError) as caught:
                make()
            assert caught.value.errno == errno.ENXIO
        vm.create_doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk").close()


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # The one by which the folder was read.


def test_nothing_is_left_and_nobody_inherits(system: interface.System) -> None:
    before = descriptors()
    vm = system.create_vm()
    vm.create_irqchip()
    edge = vm.create_line(3, Trigger.EDGE, "the disk")
    edge.pulse()
    level = vm.create_line(4, Trigger.LEVEL, "the disk")
    level.raise_()
    message = vm.create_message("the disk")
    message.route(LOW_MESSAGE)
    message.unmask()
    made: list[Owned] = [
        edge,
        level,
        message,
        vm.create_line(5, Trigger.LEVEL, "the disk", resample=True),
        vm.create_message("the disk"),
        vm.create_doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk"),
    ]
    assert not any(map(is_inheritable, descriptors() - before))
    vm.close()
    for one in made:
        one.close()
    assert descriptors() <= before
