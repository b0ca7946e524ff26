# SPDX-License-Identifier: MIT
"""The state of a vCPU beyond `pyvmm.hosts.registers`, as frozen values.

Field names are those of the structures of api.rst; nested ones are joined with an underscore.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.hosts.registers import Regs, Sregs


class MpState(enum.IntEnum):
    """Multiprocessing states of x86: what a vCPU waits for (KVM_GET_MP_STATE, api.rst 4.38)."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4
    AP_RESET_HOLD = 9


class GuestDebug(enum.IntFlag):
    """``kvm_guest_debug.control`` (api.rst 4.87)."""

    ENABLE = 1 << 0
    SINGLESTEP = 1 << 1
    USE_SW_BP = 1 << 16
    USE_HW_BP = 1 << 17
    INJECT_DB = 1 << 18
    INJECT_BP = 1 << 19
    BLOCKIRQ = 1 << 20


class SyncRegs(enum.IntFlag):
    """Register sets that ``kvm_run.s.regs`` carries (KVM_CAP_SYNC_REGS, api.rst 5)."""

    REGS = 1 << 0
    SREGS = 1 << 1
    EVENTS = 1 << 2


class VcpuEventsFlag(enum.IntFlag):
    """Flags for the fields of `VcpuEvents` that KVM_SET_VCPU_EVENTS shall take (api.rst 4.32)."""

    NMI_PENDING = 1 << 0
    SIPI_VECTOR = 1 << 1
    SHADOW = 1 << 2
    SMM = 1 << 3
    PAYLOAD = 1 << 4
    TRIPLE_FAULT = 1 << 5


@dataclass(frozen=True, slots=True)
class VcpuEvents:
    """``struct kvm_vcpu_events``: exceptions, interrupts and NMIs under way (api.rst 4.31)."""

    exception_injected: int = 0
    exception_nr: int = 0
    exception_has_error_code: int = 0
    exception_pending: int = 0
    exception_error_code: int = 0
    interrupt_injected: int = 0
    interrupt_nr: int = 0
    interrupt_soft: int = 0
    interrupt_shadow: int = 0
    nmi_injected: int = 0
    nmi_pending: int = 0
    nmi_masked: int = 0
    sipi_vector: int = 0
    flags: VcpuEventsFlag = VcpuEventsFlag(0)  # noqa: RUF009 - immutable
    smi_smm: int = 0
    smi_pending: int = 0
    smi_smm_inside_nmi: int = 0
    smi_latched_init: int = 0
    triple_fault_pending: int = 0
    exception_has_payload: int = 0
    exception_payload: int = 0


@dataclass(frozen=True, slots=True)
class Fpu:
    """``struct kvm_fpu`` (api.rst 4.22): `fpr` 8 registers, `xmm` 16, each of 16 bytes."""

    fpr: tuple[bytes, ...] = (bytes(16),) * 8
    fcw: int = 0x37F
    fsw: int = 0
    ftwx: int = 0
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    xmm: tuple[bytes, ...] = (bytes(16),) * 16
    mxcsr: int = 0x1F80


@dataclass(frozen=True, slots=True)
class DebugRegs:
    """``struct kvm_debugregs`` (api.rst 4.33): DR0..DR3 as linear addresses, DR6, DR7."""

    db: tuple[int, int, int, int] = (0, 0, 0, 0)
    dr6: int = 0xFFFF_0FF0
    dr7: int = 0x400


@dataclass(frozen=True, slots=True)
class PageDirectoryPointers:
    """The addition of ``struct kvm_sregs2``: `valid` says whether `pdptrs` are (api.rst 4.131)."""

    valid: bool
    pdptrs: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SyncedRegs:
    """Registers that a KVM_RUN left in ``kvm_run.s.regs``; None where not asked for."""

    regs: Regs | None
    sregs: Sregs | None
    events: VcpuEvents | None


@dataclass(frozen=True, slots=True)
class Translation:
    """A linear address under the present page tables (KVM_TRANSLATE, api.rst 4.15)."""

    gpa: int
    writeable: bool
    usermode: bool
