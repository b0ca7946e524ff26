# SPDX-License-Identifier: MIT
"""Saved states of KVM's vCPUs and VMs: the structures of its ioctls, as bytes.

`FORMAT` is the version of all of them: it changes with what is in here, or with what it means.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyvmm.errors import UsageError
from pyvmm.hosts.saved_state import SavedVcpu, SavedVm

FORMAT = 2
SREGS_SIZE = 312
SREGS2_SIZE = 320
_MSR_ENTRY = struct.Struct("<I4xQ")
_CPUID_HEAD, _CPUID_ENTRY = 8, 40
_SIZES = {"events": 64, "regs": 144, "xcrs": 392, "debugregs": 128}
_LAPIC_SIZE = 1024
NESTED_HEAD = 128
"""Bytes of a ``kvm_nested_state`` that nothing follows; its own size is at 4."""
_CHIP_SIZE = 512
_CHIPS = 3
_PIT_SIZE = 112


@dataclass(frozen=True, slots=True)
class KvmSavedVcpu(SavedVcpu):
    """State of a vCPU; what is called like a structure of api.rst is one.

    `cpuid` is the table as the vCPU was given it, empty where it was given none. `sregs` is a
    ``kvm_sregs2`` where the host has it, else a ``kvm_sregs``. `msrs` are entries of ``kvm_msrs``,
    in the order in which they are set. `lapic` is None without in-kernel controllers. `nested` is
    a ``kvm_nested_state`` with what follows it, None where the vCPU can run no guests of its own.
    """

    cpuid: bytes
    tsc_khz: int
    mp_state: int
    events: bytes
    regs: bytes
    sregs: bytes
    xsave: bytes
    xcrs: bytes
    debugregs: bytes
    msrs: bytes
    lapic: bytes | None
    nested: bytes | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` where a structure has not its size: the kernel would read past it."""
        sizes = {name: len(getattr(self, name)) == size for name, size in _SIZES.items()}
        sizes["sregs"] = len(self.sregs) in (SREGS_SIZE, SREGS2_SIZE)
        sizes["xsave"] = len(self.xsave) == self.origin.xsave_size
        sizes["mp_state"] = self.mp_state in range(1 << 32)
        sizes["tsc_khz"] = self.tsc_khz in range(1 << 32)
        sizes["msrs"] = len(self.msrs) % _MSR_ENTRY.size == 0
        sizes["lapic"] = self.lapic is None or len(self.lapic) == _LAPIC_SIZE
        sizes["nested"] = self.nested is None or (
            len(self.nested) >= NESTED_HEAD
            and (int.from_bytes(self.nested[4:8], "little") == len(self.nested))
        )
        sizes["cpuid"] = not self.cpuid or len(self.cpuid) == (
            _CPUID_HEAD + _CPUID_ENTRY * int.from_bytes(self.cpuid[:4], "little")
        )
        _require(f"vCPU {self.index}", sizes)

    def msr_entry(self, index: int) -> bytes:
        """The entry of one model-specific register; empty where it has none."""
        values = self.msr_values()
        return _MSR_ENTRY.pack(index, values[index]) if index in values else b""

    def msr_values(self) -> dict[int, int]:
        """The model-specific registers by index."""
        return dict(_MSR_ENTRY.iter_unpack(self.msrs))


@dataclass(frozen=True, slots=True)
class KvmSavedVm(SavedVm):
    """State of a VM: its clock in ns, and what in-kernel controllers there are.

    `irqchips` has 512 bytes for each `Irqchip`, in their order; empty without them. `pit` is a
    ``kvm_pit_state2``. Where `clock` is None it goes on as it is.
    """

    clock: int | None
    irqchips: tuple[bytes, ...]
    pit: bytes | None

    def __post_init__(self) -> None:
        """Raise `UsageError` where a structure has not its size."""
        chips = all(len(chip) == _CHIP_SIZE for chip in self.irqchips)
        sizes = {
            "clock": self.clock is None or self.clock in range(1 << 64),
            "irqchips": chips and len(self.irqchips) in (0, _CHIPS),
            "pit": self.pit is None or len(self.pit) == _PIT_SIZE,
        }
        _require("a VM", sizes)


def _require(whose: str, sizes: dict[str, bool]) -> None:
    for name, fits in sizes.items():
        if not fits:
            raise UsageError(f"take a saved state of {whose}", f"its {name} has not the right size")
