# SPDX-License-Identifier: MIT
"""ACPI's fixed hardware: events that are enabled, the button, the way off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.post_code import PostCode
from pyvmm.devices.power import PowerManagement

BUTTON = 1 << 8
SLEEP = 1 << 13


class Machine:
    """A machine around the device: each level of the SCI, and how often it went off."""

    def __init__(self) -> None:
        self.sci: list[bool] = []
        self.off = 0
        self.power = PowerManagement(self.sci.append, self._power_off)

    def _power_off(self) -> None:
        self.off += 1


def test_the_button_interrupts_when_it_is_enabled_until_its_status_is_cleared() -> None:
    machine = Machine()
    power = machine.power
    power.events.write(2, 2, BUTTON)
    assert machine.sci == []
    power.press()
    assert machine.sci == [True]
    assert power.events.read(0, 2) == BUTTON
    power.press()
    assert machine.sci == [True], "a level, which is up"
    power.events.write(0, 2, 0xFFFF & ~BUTTON)
    assert power.events.read(0, 2) == BUTTON, "zeroes clear nothing"
    power.events.write(0, 2, BUTTON)
    assert machine.sci == [True, False]
    assert power.events.read(0, 4) == BUTTON << 16


def test_a_press_before_it_is_enabled_waits() -> None:
    machine = Machine()
    machine.power.press()
    assert machine.sci == []
    machine.power.events.write(0, 4, BUTTON << 16)
    assert machine.sci == [True]
    machine.power.events.write(3, 1, 0)
    assert machine.sci == [True, False]


def test_it_goes_off_by_the_sleep_that_the_tables_name_and_by_no_other() -> None:
    machine = Machine()
    control = machine.power.control
    for kind in (0, 1, 3, 4, 6, 7):
        control.write(0, 2, kind << 10 | SLEEP)
    control.write(0, 2, 5 << 10)
    assert machine.off == 0
    control.write(0, 2, 5 << 10 | SLEEP)
    assert machine.off == 1
    assert control.read(0, 2) == 5 << 10 | 1, "SLP_EN reads 0, SCI_EN 1"
    # By bytes, as it may be written too: the type is kept, the second byte has both.
    control.write(1, 1, (5 << 10 | SLEEP) >> 8)
    assert machine.off == 2
    control.write(0, 1, 0)
    assert control.read(1, 1) == 5 << 2


def test_a_machine_without_controllers_has_nobody_to_interrupt() -> None:
    power = PowerManagement(None, lambda: None)
    power.events.write(2, 2, BUTTON)
    power.press()
    assert power.events.read(0, 2) == BUTTON


def test_reset_and_restoring_drive_the_line_by_the_registers() -> None:
    machine, other = Machine(), Machine()
    machine.power.events.write(2, 2, BUTTON)
    machine.power.control.write(0, 2, 3 << 10)
    machine.power.press()
    saved = machine.power.save()
    other.power.restore(saved)
    assert other.sci == [True]
    assert other.power.save() == saved
    assert other.power.control.read(0, 2) == 3 << 10 | 1
    other.power.restore(saved)
    assert other.sci == [True], "it is up already"
    other.power.reset()
    assert other.sci == [True, False]
    assert other.power.save() == Machine().power.save()


PLACES = [
    *(("events", (offset, 1)) for offset in range(4)),
    *(("events", place) for place in ((0, 2), (2, 2), (0, 4))),
    *(("control", place) for place in ((0, 1), (1, 1), (0, 2))),
]
accesses = st.lists(
    st.sampled_from(PLACES).flatmap(
        lambda one: st.tuples(
            st.just(one[0]), st.just(one[1]), st.integers(0, (1 << 8 * one[1][1]) - 1)
        )
    )
)


@given(accesses, st.booleans())
def test_any_writes_leave_the_line_as_the_registers_say(
    writes: list[tuple[str, tuple[int, int], int]], pressed: bool
) -> None:
    machine = Machine()
    power = machine.power
    if pressed:
        power.press()
    for where, (offset, size), value in writes:
        (power.events if where == "events" else power.control).write(offset, size, value)
        both = power.events.read(0, 4)
        assert (machine.sci or [False])[-1] is bool(both & both >> 16 & 0xFFFF)
        assert both & 0xFFFF in (0, BUTTON), "no other event ever happens"
        parts = (
            power.events.read(0, 1) | power.events.read(1, 1) << 8 | power.events.read(2, 2) << 16
        )
        assert parts == both
        assert power.control.read(0, 2) & 1


def test_post_codes_are_dropped_without_leaving_for_python() -> None:
    port = PostCode()
    (posting,) = port.posting
    assert (posting.offset, posting.write, posting.read_value) == (0, True, port.read(0, 1))
    port.write(0, 1, 0x42)
    port.posted_write(b"\x42\x43")
    assert port.read(0, 1) == 0xFF
