# SPDX-License-Identifier: MIT
"""The state of a vCPU: registers of all kinds, read and written through its fd."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.kvm import cpuid, ioctls
from pyvmm.hosts.kvm.binding import CData, ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import FdKind, IoctlSpec
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.kvm.register_codec import (
    decode_regs,
    decode_sregs,
    encode_regs,
    encode_sregs,
)
from pyvmm.hosts.registers import FpuRegs, FurtherRegs, Regs, Sregs

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.vcpu_values import (
        DebugRegs,
        Fpu,
        GuestDebug,
        MpState,
        PageDirectoryPointers,
        Translation,
        VcpuEvents,
    )

_LEGACY_XSAVE_SIZE = 4096
_MXCSR = 24
"""Offset of MXCSR in the XSAVE area, in bytes (SDM vol. 1, 10.5.1)."""
_KERNEL_GS_BASE = 0xC000_0102
_PDPTRS_VALID = 1
_RATE_OF_THE_HOST = 0


class VcpuState(FdOwner):
    """State of a vCPU, to be read and written while it is not running. All raise `KvmError`."""

    _cpuid_given: CData | None = None
    """The table as it was set; what KVM_GET_CPUID2 gives changes as the guest runs."""

    def get_regs(self) -> Regs:
        """The general registers (KVM_GET_REGS, api.rst 4.11)."""
        raw = new("struct kvm_regs *")
        call(ioctls.GET_REGS, self, raw)
        return decode_regs(raw)

    def set_regs(self, regs: Regs) -> None:
        """Replace the general registers (KVM_SET_REGS, api.rst 4.12)."""
        raw = new("struct kvm_regs *")
        encode_regs(regs, raw)
        call(ioctls.SET_REGS, self, raw, f"rip={regs.rip:#x} rflags={regs.rflags:#x}")

    def get_sregs(self) -> Sregs:
        """The special registers (KVM_GET_SREGS, api.rst 4.13)."""
        raw = new("struct kvm_sregs *")
        call(ioctls.GET_SREGS, self, raw)
        return decode_sregs(raw)

    def set_sregs(self, sregs: Sregs) -> None:
        """Replace the special registers (KVM_SET_SREGS, api.rst 4.14). Queues no interrupt."""
        raw = new("struct kvm_sregs *")
        encode_sregs(sregs, raw)
        described = f"cr0={sregs.cr0:#x} cr3={sregs.cr3:#x} cr4={sregs.cr4:#x} efer={sregs.efer:#x}"
        call(ioctls.SET_SREGS, self, raw, described)

    def set_entry(self, regs: Regs, sregs: Sregs) -> None:
        """All registers for a first run; `sregs.apic_base` is not taken, the vCPU's own stays."""
        raw = new("struct kvm_sregs *")
        call(ioctls.GET_SREGS, self, raw)
        apic_base = raw.apic_base
        encode_sregs(sregs, raw)
        raw.apic_base = apic_base
        call(ioctls.SET_SREGS, self, raw, f"cr0={sregs.cr0:#x} efer={sregs.efer:#x}")
        self.set_regs(regs)

    def get_further(self) -> FurtherRegs:
        """Debug registers, x87, SSE and more, by seven ioctls; see `pyvmm.hosts.registers`."""
        from pyvmm.hosts.kvm.vcpu_values import MpState

        debug, events, fpu = self.get_debugregs(), self.get_events(), self.get_fpu()
        xsave = self.get_xsave()
        return FurtherRegs(
            kernel_gs_base=self.get_msrs([_KERNEL_GS_BASE])[_KERNEL_GS_BASE],
            halted=self.get_mp_state() is MpState.HALTED,
            interrupt_shadow=bool(events.interrupt_shadow),
            smm=bool(events.smi_smm),
            dr=(*debug.db, debug.dr6, debug.dr7),
            fpu=FpuRegs(
                fpr=fpu.fpr,
                fcw=fpu.fcw,
                fsw=fpu.fsw,
                ftw=fpu.ftwx,
                xmm=fpu.xmm,
                mxcsr=int.from_bytes(xsave[_MXCSR : _MXCSR + 4], "little"),
            ),
        )

    def get_sregs2(self) -> tuple[Sregs, PageDirectoryPointers]:
        """The special registers with the PAE page directory pointers (api.rst 4.131)."""
        from pyvmm.hosts.kvm.vcpu_values import PageDirectoryPointers

        raw = new("struct kvm_sregs2 *")
        call(ioctls.GET_SREGS2, self, raw)
        a, b, c, d = raw.pdptrs
        valid = bool(raw.flags & _PDPTRS_VALID)
        return decode_sregs(raw), PageDirectoryPointers(valid, (a, b, c, d))

    def set_sregs2(self, sregs: Sregs, pointers: PageDirectoryPointers) -> None:
        """Replace both (KVM_SET_SREGS2, api.rst 4.132)."""
        raw = new("struct kvm_sregs2 *")
        encode_sregs(sregs, raw)
        raw.flags = _PDPTRS_VALID if pointers.valid else 0
        raw.pdptrs = list(pointers.pdptrs)
        call(ioctls.SET_SREGS2, self, raw, f"cr0={sregs.cr0:#x} cr4={sregs.cr4:#x}")

    def translate(self, linear: int) -> int | None:
        """The GPA of a linear address under the present page tables; None if unmapped (4.15)."""
        found = self.translate_with_rights(linear)
        return None if found is None else found.gpa

    def translate_with_rights(self, linear: int) -> Translation | None:
        """As `translate`; KVM does not fill the rights in truthfully (it answers writeable)."""
        from pyvmm.hosts.kvm.vcpu_values import Translation

        raw = new("struct kvm_translation *", {"linear_address": linear})
        call(ioctls.TRANSLATE, self, raw, f"linear={linear:#x}")
        if not raw.valid:
            return None
        return Translation(raw.physical_address, bool(raw.writeable), bool(raw.usermode))

    def get_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Read the CPUID table of the guest (KVM_GET_CPUID2)."""
        return cpuid.fetch(ioctls.GET_CPUID2, self)

    def set_cpuid(self, entries: tuple[CpuidEntry, ...]) -> None:
        """Set the CPUID table of the guest, before its first run (KVM_SET_CPUID2, 4.20)."""
        self._give_cpuid(cpuid.encode(entries))

    def _give_cpuid(self, table: CData) -> None:
        call(ioctls.SET_CPUID2, self, table, f"nent={table.nent}")
        self._cpuid_given = table

    def get_fpu(self) -> Fpu:
        """x87 and SSE registers (KVM_GET_FPU, api.rst 4.22).

        KVM neither gives nor takes `Fpu.mxcsr`; the XSAVE area has it.
        """
        from pyvmm.hosts.kvm.vcpu_codec import decode_fpu

        raw = new("struct kvm_fpu *")
        call(ioctls.GET_FPU, self, raw)
        return decode_fpu(raw)

    def set_fpu(self, fpu: Fpu) -> None:
        """Replace the x87 and SSE registers (KVM_SET_FPU, api.rst 4.23)."""
        from pyvmm.hosts.kvm.vcpu_codec import encode_fpu

        raw = new("struct kvm_fpu *")
        encode_fpu(fpu, raw)
        call(ioctls.SET_FPU, self, raw)

    def get_xsave(self, size: int = _LEGACY_XSAVE_SIZE) -> bytes:
        """The XSAVE area of `size` bytes: the answer to KVM_CAP_XSAVE2, or 4096.

        KVM_GET_XSAVE2 (api.rst 4.134) where it is larger than 4096, else KVM_GET_XSAVE (4.42).
        """
        raw = _xsave(size)
        spec = ioctls.GET_XSAVE2 if size > _LEGACY_XSAVE_SIZE else ioctls.GET_XSAVE
        call(spec, self, raw, f"size={size}")
        return bytes(ffi.buffer(ffi.cast("char *", raw), size))

    def set_xsave(self, area: bytes) -> None:
        """Replace the XSAVE area with one that `get_xsave` gave (KVM_SET_XSAVE, api.rst 4.43)."""
        raw = _xsave(len(area))
        ffi.memmove(raw, area, len(area))
        call(ioctls.SET_XSAVE, self, raw, f"size={len(area)}")

    def get_xcrs(self) -> dict[int, int]:
        """Extended control registers, by number (KVM_GET_XCRS, api.rst 4.44)."""
        raw = new("struct kvm_xcrs *")
        call(ioctls.GET_XCRS, self, raw)
        return {raw.xcrs[i].xcr: raw.xcrs[i].value for i in range(raw.nr_xcrs)}

    def set_xcrs(self, values: Mapping[int, int]) -> None:
        """Set extended control registers, at most 16 (KVM_SET_XCRS, api.rst 4.45)."""
        rows = [(number, 0, value) for number, value in values.items()]
        raw = new("struct kvm_xcrs *", {"nr_xcrs": len(rows), "xcrs": rows})
        call(ioctls.SET_XCRS, self, raw, str(dict(values)))

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """Model-specific registers by index (KVM_GET_MSRS, api.rst 4.18).

        Raises `KvmError`, with errno 0, that names the first one that KVM does not give.
        """
        rows = [(index, 0, 0) for index in indices]
        raw = new("struct kvm_msrs *", {"nmsrs": len(rows), "entries": rows})
        done = call(ioctls.GET_MSRS, self, raw, f"nmsrs={len(rows)}")
        self._require_all_msrs(ioctls.GET_MSRS, [row[0] for row in rows], done)
        return {raw.entries[i].index: raw.entries[i].data for i in range(done)}

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set model-specific registers in order (KVM_SET_MSRS, api.rst 4.19).

        Raises `KvmError`, with errno 0, that names the first one that KVM does not take; those
        before it are set.
        """
        rows = [(index, 0, value) for index, value in values.items()]
        raw = new("struct kvm_msrs *", {"nmsrs": len(rows), "entries": rows})
        done = call(ioctls.SET_MSRS, self, raw, f"nmsrs={len(rows)}")
        self._require_all_msrs(ioctls.SET_MSRS, list(values), done)

    def _require_all_msrs(self, spec: IoctlSpec, indices: Sequence[int], done: int) -> None:
        if done < len(indices):
            raise KvmError.of(spec.name, FdKind.VCPU, self.fd, f"msr={indices[done]:#x}", 0)

    def get_lapic(self) -> bytes:
        """The in-kernel local APIC's 1024 bytes of registers (KVM_GET_LAPIC, api.rst 4.57)."""
        raw = new("struct kvm_lapic_state *")
        call(ioctls.GET_LAPIC, self, raw)
        return bytes(ffi.buffer(raw.regs))

    def set_lapic(self, registers: bytes) -> None:
        """Replace the local APIC's 1024 bytes of registers (KVM_SET_LAPIC, api.rst 4.58)."""
        raw = new("struct kvm_lapic_state *")
        if len(registers) != ffi.sizeof(raw.regs):
            raise UsageError("set the local APIC", f"{len(registers)} bytes are not 1024")
        ffi.buffer(raw.regs)[:] = registers
        call(ioctls.SET_LAPIC, self, raw)

    def get_events(self) -> VcpuEvents:
        """Exceptions and interrupts under way (KVM_GET_VCPU_EVENTS, api.rst 4.31)."""
        from pyvmm.hosts.kvm.vcpu_codec import decode_events

        raw = new("struct kvm_vcpu_events *")
        call(ioctls.GET_VCPU_EVENTS, self, raw)
        return decode_events(raw)

    def set_events(self, events: VcpuEvents) -> None:
        """Replace them, as far as `events.flags` says (KVM_SET_VCPU_EVENTS, api.rst 4.32)."""
        from pyvmm.hosts.kvm.vcpu_codec import encode_events

        raw = new("struct kvm_vcpu_events *")
        encode_events(events, raw)
        call(ioctls.SET_VCPU_EVENTS, self, raw, str(events))

    def get_debugregs(self) -> DebugRegs:
        """The debug registers (KVM_GET_DEBUGREGS, api.rst 4.33)."""
        from pyvmm.hosts.kvm.vcpu_codec import decode_debugregs

        raw = new("struct kvm_debugregs *")
        call(ioctls.GET_DEBUGREGS, self, raw)
        return decode_debugregs(raw)

    def set_debugregs(self, registers: DebugRegs) -> None:
        """Replace the debug registers (KVM_SET_DEBUGREGS, api.rst 4.34)."""
        from pyvmm.hosts.kvm.vcpu_codec import encode_debugregs

        raw = new("struct kvm_debugregs *")
        encode_debugregs(registers, raw)
        call(ioctls.SET_DEBUGREGS, self, raw, str(registers))

    def get_mp_state(self) -> MpState:
        """Read what the vCPU is waiting for, if anything (KVM_GET_MP_STATE, api.rst 4.38)."""
        from pyvmm.hosts.kvm.vcpu_values import MpState

        raw = new("struct kvm_mp_state *")
        call(ioctls.GET_MP_STATE, self, raw)
        return MpState(raw.mp_state)

    def set_mp_state(self, state: MpState) -> None:
        """Make it wait for something else (KVM_SET_MP_STATE, api.rst 4.39)."""
        raw = new("struct kvm_mp_state *", {"mp_state": int(state)})
        call(ioctls.SET_MP_STATE, self, raw, state.name)

    def sleeps_for_good(self) -> bool:
        """Tell whether it runs nothing before an NMI, SMI or INIT; see `interface.Vcpu`.

        KVM keeps a halted vCPU's state when KVM_RUN is interrupted, and takes an INIT or start-up
        IPI that has arrived before it tells the state (kvm_arch_vcpu_ioctl_get_mpstate).
        """
        from pyvmm.hosts.kvm import sleeping

        state = self.get_mp_state()
        return (
            sleeping.waits(state)
            and not sleeping.takes_interrupts(state, self.get_regs())
            and not sleeping.has_event(self.get_events())
            and not sleeping.has_unmaskable_input(self.get_lapic())
        )

    def make_runnable(self) -> None:
        """Let it run at once: with in-kernel APICs all but the first wait for a start-up IPI."""
        from pyvmm.hosts.kvm.vcpu_values import MpState

        self.set_mp_state(MpState.RUNNABLE)

    def set_guest_debug(
        self, control: GuestDebug, breakpoints: Sequence[int] = (), dr7: int = 0
    ) -> None:
        """Debug the guest from outside (KVM_SET_GUEST_DEBUG, api.rst 4.87).

        `breakpoints`: up to four linear addresses for DR0..DR3, which `dr7` arms, where `control`
        has USE_HW_BP.
        """
        raw = new("struct kvm_guest_debug *", {"control": int(control)})
        for number, address in enumerate(breakpoints):
            raw.debugreg[number] = address
        raw.debugreg[7] = dr7
        call(ioctls.SET_GUEST_DEBUG, self, raw, f"{control!r} dr7={dr7:#x}")

    def has_stood_still(self) -> None:
        """Tell a guest with a kvmclock that it was paused (KVM_KVMCLOCK_CTRL, api.rst 4.70).

        Linux's watchdogs look at that. Raises `KvmError`.
        """
        try:
            call(ioctls.KVMCLOCK_CTRL, self)
        except KvmError as error:
            # The guest has no such clock; or KVM has none to offer.
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise

    def code_has_changed(self) -> None:
        """Nothing to be done: the processor fetches what is there."""

    def get_tsc_khz(self) -> int:
        """The guest's time stamp counter's rate in kHz (KVM_GET_TSC_KHZ, api.rst 4.56)."""
        return call(ioctls.GET_TSC_KHZ, self)

    def set_tsc_khz(self, rate: int) -> None:
        """Choose it (KVM_SET_TSC_KHZ, api.rst 4.55)."""
        call(ioctls.SET_TSC_KHZ, self, rate)

    def follow_host_tsc(self) -> None:
        """Go at the present rate of the host: 0 stands for it (kvm_arch_vcpu_ioctl).

        On processors without a constant rate KVM gives new vCPUs the rate at which it was itself
        initialised (kvm_timer_init), and refuses one that is slower than the host's is by now.
        """
        with suppress(KvmError):
            self.set_tsc_khz(_RATE_OF_THE_HOST)

    def enable_cap(self, cap: Cap, *args: int) -> None:
        """KVM_ENABLE_CAP on the vCPU, with up to four arguments (api.rst 4.37, 6)."""
        raw = new("struct kvm_enable_cap *", {"cap": int(cap), "args": list(args)})
        described = f"cap={cap.name} args={[hex(arg) for arg in args]}"
        call(ioctls.ENABLE_CAP, self, raw, described, kind=FdKind.VCPU)


def _xsave(size: int) -> CData:
    return new("struct kvm_xsave *", {"extra": max(0, size - _LEGACY_XSAVE_SIZE + 3) // 4})
