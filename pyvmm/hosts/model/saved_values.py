# SPDX-License-Identifier: MIT
"""Saved states of the model's vCPUs and VMs. `FORMAT` is the version of all of them.

A value that nothing can have been saved with is refused when it is made (`UsageError`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.errors import UsageError
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.pit import SavedPit
from pyvmm.hosts.saved_state import SavedVcpu, SavedVm

FORMAT = 1
_PICS = 2
_LINES = 8
_MOST_EXPECTED = 3


def _require(of: object, **holds: bool) -> None:
    for part, possible in holds.items():
        if not possible:
            raise UsageError(
                f"restore from a {type(of).__name__}",
                f"nothing was ever saved with such {part}",
                "save it again",
            )


def _require_numbers(of: object, *names: str, bits: int) -> None:
    _require(of, **{name: 0 <= getattr(of, name) < 1 << bits for name in names})


@dataclass(frozen=True, slots=True)
class SavedAccesses:
    """Accesses that an instruction has made which is to be begun again (`MmioAccesses`)."""

    done: tuple[tuple[Exit, int], ...] = ()
    again: tuple[tuple[Exit, int], ...] = ()
    is_begun_again: bool = False
    left_at: tuple[int, int] = (-1, -1)
    tries: int = 0

    def __post_init__(self) -> None:
        answers = [answer for _, answer in (*self.done, *self.again)]
        _require(self, answers=all(0 <= answer < 1 << 64 for answer in answers))


@dataclass(frozen=True, slots=True)
class SavedApic:
    """State of a local APIC; see `LocalApic`."""

    task_priority: int
    spurious: int
    requests: int
    in_service: int

    def __post_init__(self) -> None:
        _require_numbers(self, "task_priority", bits=8)
        _require_numbers(self, "spurious", bits=9)
        _require_numbers(self, "requests", "in_service", bits=256)


@dataclass(frozen=True, slots=True)
class ModelSavedVcpu(SavedVcpu):
    """State of a vCPU. `context` is the processor as Unicorn keeps it (`CpuState`).

    It has x87 and SSE as well. `tsc` is the time stamp counter, which goes on from there. `apic` is
    None where the guest has never touched its local APIC.
    """

    context: bytes
    cr8: int
    apic_base: int
    tsc: int
    has_cpuid: bool
    has_controllers: bool
    is_halted: bool
    waits_for_startup: bool
    accesses: SavedAccesses
    apic: SavedApic | None = None

    def __post_init__(self) -> None:
        _require_numbers(self, "cr8", bits=4)
        _require_numbers(self, "apic_base", "tsc", bits=64)


@dataclass(frozen=True, slots=True)
class SavedPic:
    """State of one 8259A; see `Pic`."""

    base: int
    level_triggered: int
    mask: int
    requests: int
    in_service: int
    lines: int
    lowest: int
    expecting: tuple[int, ...]
    auto_end: bool
    read_in_service: bool

    def __post_init__(self) -> None:
        _require_numbers(self, "base", "level_triggered", "mask", "requests", bits=8)
        _require_numbers(self, "in_service", "lines", bits=8)
        _require(
            self,
            lowest=self.lowest in range(_LINES),
            expecting=len(self.expecting) <= _MOST_EXPECTED
            and all(word in range(_LINES) for word in self.expecting),
        )


@dataclass(frozen=True, slots=True)
class ModelSavedVm(SavedVm):
    """State of a VM's controllers: two 8259A or none, the timer."""

    pics: tuple[SavedPic, ...]
    pit: SavedPit | None

    def __post_init__(self) -> None:
        _require(self, pics=len(self.pics) in (0, _PICS))
