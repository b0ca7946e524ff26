# SPDX-License-Identifier: MIT
"""A platform has room for all of its devices, or is refused in a line that names both sides."""

from __future__ import annotations

import pytest

from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.placement import PlacedDevice, Platform, Space, Window
from pyvmm.errors import UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import MIB

PORT, MMIO = Space.PORT, Space.MMIO


def device(
    name: str,
    *places: tuple[Space, int, int],
    gsis: tuple[int, ...] = (),
    shares: bool = False,
    width: int = 1,
) -> PlacedDevice:
    port = ExitPort(lambda _: None)
    windows = tuple(Window(space, start, length, port, width) for space, start, length in places)
    return PlacedDevice(name, port, windows, gsis, shares, hint="try elsewhere")


def refusal(*devices: PlacedDevice) -> str:
    with pytest.raises(UsageError) as refused:
        Platform(devices)
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize(("start", "length"), [(0x40, 1), (0x4F, 1), (0x3F, 2), (0x4F, 9), (0, 99)])
def test_two_devices_at_one_address_are_refused_by_name(
    space: Space, start: int, length: int
) -> None:
    told = refusal(device("one", (space, 0x40, 0x10)), device("other", (space, start, length)))
    assert f"put other at [{start:#x}, {start + length:#x}) into the {space.value} space" in told
    assert "it overlaps one at [0x40, 0x50)" in told
    assert "try elsewhere" in told


def test_the_later_of_the_two_has_no_room_wherever_it_begins() -> None:
    told = refusal(device("first", (PORT, 0x48, 8)), device("second", (PORT, 0x40, 16)))
    assert "put second" in told
    assert "overlaps first" in told


def test_the_windows_of_one_device_do_not_overlap_either() -> None:
    assert "it overlaps one at" in refusal(device("one", (PORT, 0x40, 4), (PORT, 0x42, 4)))


def test_neighbours_and_other_spaces_have_room() -> None:
    platform = Platform(
        (
            device("below", (PORT, 0x3F, 1)),
            device("one", (PORT, 0x40, 0x10), (MMIO, 0x40, 0x10)),
            device("above", (PORT, 0x50, 1), (MMIO, (1 << 64) - 1, 1)),
        )
    )
    assert [window.start for window, _ in platform.windows(PORT)] == [0x3F, 0x40, 0x50]
    assert [placed.name for _, placed in platform.windows(MMIO)] == ["one", "above"]


@pytest.mark.parametrize(
    ("space", "start", "length", "width"),
    [
        (PORT, 0xFFFF, 2, 1),
        (PORT, 0x1_0000, 1, 1),
        (PORT, -1, 2, 1),
        (PORT, 0x40, 0, 1),
        (PORT, 0x40, 4, 3),
        (PORT, 0x40, 4, 16),
        (MMIO, 1 << 64, 1, 1),
        (MMIO, (1 << 64) - 1, 2, 1),
    ],
)
def test_a_window_lies_within_its_space(space: Space, start: int, length: int, width: int) -> None:
    told = refusal(device("one", (space, start, length), width=width))
    assert told.startswith(f"cannot put one at [{start:#x}, ")
    assert f"within [0, {space.size:#x})" in told


@pytest.mark.parametrize("sharing", [(False, False), (True, False), (False, True)])
def test_a_gsi_is_taken_once_unless_all_share_it(sharing: tuple[bool, bool]) -> None:
    told = refusal(
        device("one", gsis=(4, 5), shares=sharing[0]), device("other", gsis=(5,), shares=sharing[1])
    )
    assert "give GSI 5 to other: one has it" in told


def test_gsis_are_shared_by_those_who_say_so() -> None:
    both = (device("one", gsis=(5,), shares=True), device("other", gsis=(5,), shares=True))
    assert Platform(both).devices == both
    assert "third" in refusal(*both, device("third", gsis=(5,)))


def test_saved_state_goes_by_names_so_they_are_unique() -> None:
    assert "'one'" in refusal(device("one"), device("one"))


@pytest.mark.parametrize(
    ("start", "length", "says"),
    [
        (0x1F_F000, 0x1000, "RAM"),
        (0xA_0000, 0x1000, "RAM"),
        (0xFEC0_0010, 4, "ioapic at [0xfec00000, 0xfec01000)"),
        (0xFEDF_0000, 0x2_0000, "apic at [0xfee00000"),
    ],
)
def test_no_window_lies_where_memory_or_a_controller_answers(
    start: int, length: int, says: str
) -> None:
    address_map = AddressMap.of(2 * MIB, controllers=True)
    platform = Platform((device("one", (MMIO, 0x20_0000, 4)), device("two", (MMIO, start, length))))
    with pytest.raises(UsageError) as refused:
        platform.require_room(address_map)
    assert f"put two at [{start:#x}, {start + length:#x})" in str(refused.value)
    assert says.lower() in str(refused.value).lower()
    Platform(platform.devices[:1]).require_room(address_map)
