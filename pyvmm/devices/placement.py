# SPDX-License-Identifier: MIT
"""Platforms: which devices a machine has and where they sit, as a value.

A platform is a list of placed devices. Two that would answer at one address, or pull one interrupt
line, are refused when it is made, which is before there is a guest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

from pyvmm.devices.ports import PORT_SPACE_SIZE
from pyvmm.devices.protocols import Backend, Guard, Registers, Resettable
from pyvmm.errors import UsageError
from pyvmm.memory.address_map import AddressMap, RangeKind

WIDTHS: Final = (1, 2, 4, 8)
"""Widest accesses that a window may take whole, in bytes."""

_HINT: Final = "move one of the two"


class Space(enum.Enum):
    """Address space that a window lies in."""

    PORT = "port"
    MMIO = "MMIO"

    @property
    def size(self) -> int:
        """Number of addresses, in bytes."""
        return PORT_SPACE_SIZE if self is Space.PORT else 1 << 64


# Named tuples, not dataclasses: these take eight times as long to make when a command starts.


class Window(NamedTuple):
    """Addresses at which `registers` answer: [start, start + length) of `space`, ports or GPAs.

    None: the host answers there by itself, and no access gets to a bus.

    Accesses of up to `width` bytes go whole. One that is not `serialised` is entered by several
    threads at once and under no lock: its registers see to that themselves, or work that takes long
    is done there. `name` is the device's where there is none.
    """

    space: Space
    start: int
    length: int
    registers: Registers | None
    width: int = 1
    name: str = ""
    serialised: bool = True

    @property
    def end(self) -> int:
        """The first address after the window."""
        return self.start + self.length


BackendMaker = Callable[[Guard], Backend]
"""Function that makes a device's backend; the guard is what to hold when it calls the device."""


class PlacedDevice(NamedTuple):
    """A device in its place: how the guest reaches it, and the interrupt lines that it sets.

    `gsis` are lines of its own unless `shares_gsis`, with others that share theirs. `name` is
    unique on a platform: saved state goes by it. `hint` says what to do where it has no room.
    `hid` is the hardware ID by which ACPI tables tell of it ("": they do not): of what it answers
    at, and of its lines, edge-triggered where it is reached by ports alone, as ISA devices are.
    """

    name: str
    device: Resettable
    windows: tuple[Window, ...]
    gsis: tuple[int, ...] = ()
    shares_gsis: bool = False
    backend: BackendMaker | None = None
    hint: str = _HINT
    hid: str = ""


@dataclass(frozen=True)
class Platform:
    """Devices of one machine, in the order in which they are reset and restored.

    Raises `UsageError`, which names both sides, for two devices of one name, at one address, or on
    one GSI that they do not share; and for a window that does not lie in its address space.
    """

    devices: tuple[PlacedDevice, ...]

    def __post_init__(self) -> None:
        names: set[str] = set()
        taken: dict[int, PlacedDevice] = {}
        for placed in self.devices:
            if placed.name in names:
                raise UsageError(
                    f"give a machine the device {placed.name!r}",
                    "it has one of that name",
                    "call one of the two otherwise",
                )
            names.add(placed.name)
            for gsi in placed.gsis:
                other = taken.setdefault(gsi, placed)
                if other is not placed and not (other.shares_gsis and placed.shares_gsis):
                    raise UsageError(
                        f"give GSI {gsi} to {placed.name}",
                        f"{other.name} has it",
                        "give it another, or let both share it",
                    )
        self._refuse_overlaps()

    def require_room(self, address_map: AddressMap) -> None:
        """Raise `UsageError` for an MMIO window where memory or a controller answers instead."""
        others = [
            *((one.range, one.name) for one in address_map.slots),
            *((one.range, one.name) for one in address_map.of_kind(RangeKind.CONTROLLER)),
        ]
        for window, placed in self.windows(Space.MMIO):
            for gpas, name in others:
                if window.start < gpas.end and gpas.start < window.end:
                    _refuse(window, placed, f"{name} at [{gpas.start:#x}, {gpas.end:#x})")

    def windows(self, space: Space) -> Iterator[tuple[Window, PlacedDevice]]:
        """Every window in `space` with its device, in the order of the devices."""
        for placed in self.devices:
            for window in placed.windows:
                if window.space is space:
                    yield window, placed

    def _refuse_overlaps(self) -> None:
        for space in Space:
            size = space.size
            end, before = 0, None
            for side in sorted(self.windows(space), key=_start):
                window, placed = side
                inside = window.start >= 0 and window.length > 0 and window.end <= size
                if not inside or window.width not in WIDTHS:
                    _refuse_misplaced(window, placed)
                if before is not None and window.start < end:
                    _refuse_pair(before, side, self.devices)
                end, before = window.end, side


def _start(side: tuple[Window, PlacedDevice]) -> int:
    return side[0].start


def describe(window: Window, placed: PlacedDevice) -> str:
    """Name and place of a window, for messages."""
    return f"{window.name or placed.name} at [{window.start:#x}, {window.end:#x})"


def _refuse_misplaced(window: Window, placed: PlacedDevice) -> NoReturn:
    raise UsageError(
        f"put {describe(window, placed)} into the {window.space.value} space",
        f"a window is at least one byte within [0, {window.space.size:#x}), of width 1, 2, 4 or 8",
        placed.hint,
    )


def _refuse_pair(
    one: tuple[Window, PlacedDevice],
    other: tuple[Window, PlacedDevice],
    devices: tuple[PlacedDevice, ...],
) -> NoReturn:
    """Refuse two windows; the device that comes later in the list is the one that has no room."""
    first, second = sorted((one, other), key=lambda side: devices.index(side[1]))
    _refuse(*second, describe(*first))


def _refuse(window: Window, placed: PlacedDevice, other: str) -> NoReturn:
    raise UsageError(
        f"put {describe(window, placed)} into the {window.space.value} space",
        f"it overlaps {other}",
        placed.hint,
    )
