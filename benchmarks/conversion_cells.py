# SPDX-License-Identifier: MIT
"""What the conversion benchmark measures: sizes, kinds, how much of each. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from pyvmm.memory.layout import GIB, MIB
from pyvmm.rules.abi import PAGE_SIZE

DATA_GPA = 1 << 30
"""Where the memory that is converted begins; conversions.c has the same."""
CODE_SIZE = 2 * MIB
"""The guest's code, shared memory at GPA 0."""
MARK = 0xF4
"""The port that the guest writes to at the end of each stretch."""


class Kind(enum.Enum):
    """What the guest does; the values are the arguments of conversions.c."""

    SWEEPS = "sweeps"
    BACK_AND_FORTH = "back_and_forth"
    TO_SHARED = "to_shared"
    TO_PRIVATE = "to_private"

    @property
    def entry(self) -> int:
        """The GPA where conversions_guest.S has it."""
        return {"sweeps": 0, "back_and_forth": 0x100}.get(self.value, 0x200)

    @property
    def by_touch(self) -> bool:
        """Whether the guest just touches, instead of asking."""
        return self in (Kind.TO_SHARED, Kind.TO_PRIVATE)


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing measured: `count` ranges of `size` bytes, `sweeps` times.

    `touch`: how many bytes apart what was converted is touched, so that pages are in use on the
    side that the next conversion leaves; 0: not at all.
    """

    kind: Kind
    size: int
    count: int
    sweeps: int = 1
    touch: int = 0

    @property
    def data_size(self) -> int:
        """Bytes of memory that are converted."""
        return self.size * self.count

    @property
    def what(self) -> str:
        """The kind, and whether pages are in use."""
        return f"{self.kind.value}{', touched' if self.touch else ''}"

    def figures(self, to_private: float, to_shared: float) -> dict[str, float]:
        """Rates, by figure, from the seconds that each direction took."""
        done = self.count * self.sweeps
        match self.kind:
            case Kind.SWEEPS:
                how = "page_in_use" if self.touch else "nothing_in_use"
                return {
                    f"{how}_to_private_per_s": done / to_private,
                    f"{how}_to_shared_per_s": done / to_shared,
                }
            case Kind.BACK_AND_FORTH:
                return {"back_and_forth_per_s": 2 * done / to_private}
            case Kind.TO_SHARED:
                return {"implicit_to_shared_per_s": done / to_shared}
            case Kind.TO_PRIVATE:
                return {"implicit_to_private_per_s": done / to_private}


_SIZES = {"4 KiB": PAGE_SIZE, "2 MiB": 2 * MIB, "1 GiB": GIB}


def sizes(scale: float = 1.0) -> dict[str, int]:
    """The sizes of ranges, by name. One of 1 GiB cannot be made fewer: left out below scale 1."""
    return {name: size for name, size in _SIZES.items() if scale >= 1 or size < GIB}


ONLOOKER = "onlooker, 1 GiB"
"""The subject that does not convert, but waits for who does."""


def size_beside_onlooker(scale: float = 1.0) -> int | None:
    """Bytes that are converted beside it; None where the scale leaves them out."""
    return sizes(scale).get("1 GiB")


_CELLS = {
    PAGE_SIZE: (
        Cell(Kind.SWEEPS, PAGE_SIZE, 2048),
        Cell(Kind.SWEEPS, PAGE_SIZE, 2048, touch=PAGE_SIZE),
        Cell(Kind.BACK_AND_FORTH, PAGE_SIZE, 4096),
        Cell(Kind.TO_SHARED, PAGE_SIZE, 1024),
        Cell(Kind.TO_PRIVATE, PAGE_SIZE, 8, sweeps=4),
    ),
    2 * MIB: (
        Cell(Kind.SWEEPS, 2 * MIB, 64),
        Cell(Kind.SWEEPS, 2 * MIB, 64, touch=2 * MIB),
        Cell(Kind.TO_SHARED, 2 * MIB, 64),
        Cell(Kind.TO_PRIVATE, 2 * MIB, 8, sweeps=4),
    ),
    GIB: (
        Cell(Kind.SWEEPS, GIB, 1),
        Cell(Kind.SWEEPS, GIB, 1, touch=GIB),
        Cell(Kind.TO_SHARED, GIB, 1),
        Cell(Kind.TO_PRIVATE, GIB, 1),
    ),
}


def cells(size: int, scale: float = 1.0) -> tuple[Cell, ...]:
    """What is measured of ranges of `size` bytes; with fewer ranges where `scale` is below 1."""
    return tuple(_scaled(cell, scale) for cell in _CELLS[size])


def cells_in_place(size: int, scale: float = 1.0) -> tuple[Cell, ...]:
    """What is measured of pages that are converted in place: the guest asks, since it must."""
    asked = (cell for cell in _CELLS[size] if not cell.kind.by_touch)
    return tuple(_scaled(cell, scale) for cell in asked)


def cells_of_python(size: int, scale: float = 1.0) -> tuple[Cell, ...]:
    """The same without the host's fast path: fewer ranges, as each takes so much longer."""
    asked = (cell for cell in _CELLS[size] if cell.kind is Kind.SWEEPS)
    return tuple(_scaled(cell, scale / (32 if size == PAGE_SIZE else 4)) for cell in asked)


def cells_of_held(size: int, scale: float = 1.0) -> tuple[Cell, ...]:
    """What is measured once more while somebody holds memory elsewhere: requests of one page."""
    asked = (cell for cell in _CELLS[size] if cell.kind is Kind.SWEEPS and size == PAGE_SIZE)
    return tuple(_scaled(cell, scale) for cell in asked)


def _scaled(cell: Cell, scale: float) -> Cell:
    return replace(cell, count=max(1, int(cell.count * scale)))
