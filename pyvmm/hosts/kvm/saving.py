# SPDX-License-Identifier: MIT
"""Facts that saving and restoring need of a KVM: learned at the first need, then kept.

Among them what new vCPUs and VMs are like. KVM resets a vCPU only when it makes it, so a reset
restores what was saved of a new one. That is made once, in a VM for a moment, when the first reset
is asked for: a machine that is never reset pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.kvm.binding import CData
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.cpuid import describe_processor, lets_guests_run_guests
from pyvmm.hosts.kvm.saved_msrs import MsrList
from pyvmm.hosts.kvm.saved_values import FORMAT, KvmSavedVcpu, KvmSavedVm
from pyvmm.hosts.saved_state import Origin, SavingHost

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.saved_vcpu import VcpuLike

_LEGACY_XSAVE = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of vCPU: its VM's type, whether it has a local APIC, its CPUID table."""

    vm_type: VmType
    has_apic: bool
    cpuid: bytes


@dataclass
class Known:
    """Facts learned of one KVM, kept while this process lives."""

    origin: Origin | None = None
    has_sregs2: bool = False
    listed_msrs: tuple[int, ...] = ()
    msrs: dict[Kind, MsrList] = field(default_factory=dict)
    new_vcpus: dict[tuple[Kind, int], KvmSavedVcpu] = field(default_factory=dict)
    new_vms: dict[bool, KvmSavedVm] = field(default_factory=dict)
    nested_room: int = 0
    nested_rooms: dict[Kind, int] = field(default_factory=dict)


class NewVcpu(Protocol):
    """A vCPU that has just been made."""

    def give_cpuid(self, table: bytes) -> None:
        """KVM_SET_CPUID2 with a ``kvm_cpuid2``."""
        ...

    def save(self) -> KvmSavedVcpu:
        """All its state."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class NewVm(Protocol):
    """A VM that has just been made."""

    def create_irqchip(self) -> None:
        """Interrupt controllers."""
        ...

    def create_pit(self) -> None:
        """A timer."""
        ...

    def create_vcpu(self, index: int) -> NewVcpu:
        """The vCPU `index`."""
        ...

    def save(self) -> KvmSavedVm:
        """Its state, but memory and vCPUs."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Asked(Protocol):
    """The KVM itself, as it is asked."""

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION."""
        ...

    def msr_indices(self) -> tuple[int, ...]:
        """KVM_GET_MSR_INDEX_LIST."""
        ...


class Saving:
    """Answers for the VMs of one `System`, which must be open where something is not known yet."""

    def __init__(
        self,
        known: Known,
        asked: Asked,
        host_cpuid: Callable[[], CData],
        make_vm: Callable[[VmType], NewVm],
    ) -> None:
        self._known = known
        self._asked = asked
        self._host_cpuid = host_cpuid
        self._make_vm = make_vm

    @property
    def origin(self) -> Origin:
        """Origin of what is saved here."""
        known = self._known
        if known.origin is None:
            known.has_sregs2 = bool(self._asked.check_extension(Cap.SREGS2))
            known.listed_msrs = self._asked.msr_indices()
            known.nested_room = self._asked.check_extension(Cap.NESTED_STATE)
            known.origin = Origin(
                SavingHost.KVM,
                FORMAT,
                describe_processor(self._host_cpuid()),
                self._asked.check_extension(Cap.XSAVE2) or _LEGACY_XSAVE,
            )
        return known.origin

    @property
    def has_sregs2(self) -> bool:
        """True where KVM gives the page directory pointers with the special registers."""
        _ = self.origin
        return self._known.has_sregs2

    def msrs(self, kind: Kind) -> MsrList:
        """The MSRs that vCPUs of this kind have."""
        found = self._known.msrs.get(kind)
        if found is None:
            _ = self.origin
            found = self._known.msrs[kind] = MsrList(self._known.listed_msrs)
        return found

    def nested_room(self, kind: Kind) -> int:
        """Bytes that a vCPU's state as a hypervisor takes at most; 0 where it cannot be one."""
        found = self._known.nested_rooms.get(kind)
        if found is None:
            _ = self.origin
            there = self._known.nested_room and lets_guests_run_guests(kind.cpuid)
            found = self._known.nested_rooms[kind] = self._known.nested_room if there else 0
        return found

    def vcpu_like(self, kind: Kind, index: int) -> VcpuLike:
        """Facts of vCPU `index` of this kind that saving it needs."""
        from pyvmm.hosts.kvm.saved_vcpu import VcpuLike

        return VcpuLike(
            self.origin,
            index,
            kind.cpuid,
            kind.has_apic,
            self.has_sregs2,
            self.msrs(kind),
            self.nested_room(kind),
        )

    def new_vcpu(self, kind: Kind, index: int) -> KvmSavedVcpu:
        """Return the state of vCPU `index` of this kind as KVM makes it. Raises `KvmError`."""
        found = self._known.new_vcpus.get((kind, index))
        if found is not None:
            return found
        vm = self._make_vm(kind.vm_type)
        try:
            if kind.has_apic:
                vm.create_irqchip()
            vcpu = vm.create_vcpu(index)
            try:
                if kind.cpuid:
                    vcpu.give_cpuid(kind.cpuid)
                found = self._known.new_vcpus[kind, index] = vcpu.save()
            finally:
                vcpu.close()
        finally:
            vm.close()
        return found

    def new_controllers(self, *, has_pit: bool) -> KvmSavedVm:
        """Return the state of controllers as KVM makes them, without a clock. Raises `KvmError`."""
        found = self._known.new_vms.get(has_pit)
        if found is None:
            vm = self._make_vm(VmType.DEFAULT)
            try:
                vm.create_irqchip()
                if has_pit:
                    vm.create_pit()
                found = self._known.new_vms[has_pit] = replace(vm.save(), clock=None)
            finally:
                vm.close()
        return found
