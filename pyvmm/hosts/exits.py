# SPDX-License-Identifier: MIT
"""Reasons why a vCPU stopped running guest code: a closed set of frozen values.

One class per KVM exit reason that this project answers or reports (KVM api.rst, "The kvm_run
structure"), `Interrupted` for a KVM_RUN that a signal ended, and `UnknownExit` for every other
reason. `Exit` is their union: a ``match`` over it that forgets one is found by the type checker.

GPAs are bytes; sizes are bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pyvmm.rules import abi

EHWPOISON: Final = abi.EHWPOISON
"""Errno of KVM_RUN where a page that the guest touches has a memory error."""

SINGLE_STEP: Final = 1 << 14
"""BS of DR6 (SDM vol. 3B, 18.2.3): the stop is a step's end."""


class _WithoutValues:
    """An exit that its kind says all of. No dataclass: making one takes long at every start."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@dataclass(frozen=True, slots=True)
class IoOut:
    """The guest wrote to a port: `data` is `count` values of `size` bytes each, in order."""

    port: int
    size: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class IoIn:
    """The guest reads a port: answer with `count` values of `size` bytes (`Vcpu.answer`)."""

    port: int
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class MmioWrite:
    """The guest wrote `data` (1..8 bytes) to a GPA that no memslot covers, or a read-only one."""

    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MmioRead:
    """The guest reads `size` bytes (1..8) from an uncovered GPA: answer with them."""

    gpa: int
    size: int


class Hlt(_WithoutValues):
    """The vCPU executed HLT and no in-kernel interrupt controller waits on its behalf."""

    __slots__ = ()


class Shutdown(_WithoutValues):
    """A triple fault (KVM_EXIT_SHUTDOWN)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Hypercall:
    """A hypercall that KVM passes on; answer with `Vcpu.answer_hypercall`.

    `long_mode`: made from 64-bit mode.
    """

    number: int
    args: tuple[int, int, int, int, int, int]
    long_mode: bool


class MemoryFaultFlag(enum.IntFlag):
    """``kvm_run.memory_fault.flags``."""

    PRIVATE = 1 << 3


@dataclass(frozen=True, slots=True)
class MemoryFault:
    """KVM cannot resolve a guest access to [gpa, gpa + size) (KVM_EXIT_MEMORY_FAULT).

    `errno` is what KVM_RUN failed with: EFAULT or EHWPOISON; with any other errno the exit reason
    would be stale and this value is not made.
    """

    gpa: int
    size: int
    flags: MemoryFaultFlag
    errno: int


@dataclass(frozen=True, slots=True)
class KvmInternalError:
    """KVM gave up (KVM_EXIT_INTERNAL_ERROR); `suberror` 1 is a failed instruction emulation."""

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FailEntry:
    """The processor refused to enter the guest: `reason` is the hardware's own code."""

    reason: int
    cpu: int


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """KVM_EXIT_SYSTEM_EVENT: `kind` 1 shutdown, 2 reset, 3 crash; see api.rst for the rest."""

    kind: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Debug:
    """Guest debugging stopped the vCPU: the exception's vector, the linear pc, DR6 and DR7."""

    exception: int
    pc: int
    dr6: int
    dr7: int


@dataclass(frozen=True, slots=True)
class ReadMsr:
    """RDMSR handed to user space: answer with `Vcpu.answer_msr`."""

    index: int
    reason: int


@dataclass(frozen=True, slots=True)
class WriteMsr:
    """WRMSR handed to user space: answer with `Vcpu.answer_msr`."""

    index: int
    value: int
    reason: int


class IrqWindowOpen(_WithoutValues):
    """The guest can take an interrupt now (user-space interrupt controller)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class IoapicEoi:
    """End of interrupt for `vector` (split interrupt controller)."""

    vector: int


class SetTpr(_WithoutValues):
    """The guest changed its task priority (user-space local APIC)."""

    __slots__ = ()


class DirtyRingFull(_WithoutValues):
    """The vCPU's ring of dirtied pages is full."""

    __slots__ = ()


class PostedFull(_WithoutValues):
    """The ring of posted port writes is full: drain it, then run on. Ours, not KVM's."""

    __slots__ = ()


class Interrupted(_WithoutValues):
    """KVM_RUN returned EINTR or EAGAIN: a kick, or immediate_exit. The guest saw nothing."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class UnknownExit:
    """An exit reason outside this set."""

    reason: int


Exit: TypeAlias = (
    IoOut
    | IoIn
    | MmioWrite
    | MmioRead
    | Hlt
    | Shutdown
    | Hypercall
    | MemoryFault
    | KvmInternalError
    | FailEntry
    | SystemEvent
    | Debug
    | ReadMsr
    | WriteMsr
    | IrqWindowOpen
    | IoapicEoi
    | SetTpr
    | DirtyRingFull
    | PostedFull
    | Interrupted
    | UnknownExit
)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """One entry of a vCPU's record of recent exits, as the host's fast path keeps it.

    `reason` is KVM's number; `address` a port or GPA; `size` in bytes; `count` of repetitions that
    the record folds together; `value` the first datum written; `when` the time of the last of them
    (``time.monotonic_ns``).
    """

    reason: int
    name: str
    address: int
    size: int
    is_write: bool
    value: int
    count: int
    when: int = field(default=0, compare=False)

    def __str__(self) -> str:
        where = f" {self.address:#x}/{self.size}" if self.size else ""
        what = ""
        if self.size:
            what = f" <- {self.value:#x}" if self.is_write else " read"
        times = f" x{self.count}" if self.count > 1 else ""
        return f"{self.name}{where}{what}{times}"
