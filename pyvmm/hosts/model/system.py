# SPDX-License-Identifier: MIT
"""The model as a host: it needs no /dev/kvm, no privilege and nothing of the kernel's KVM."""

from __future__ import annotations

from pyvmm.errors import HostLacksError
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.model import unicorn_library
from pyvmm.hosts.model.breakpoints import MOST_BREAKPOINTS
from pyvmm.hosts.model.host_memory import Mapped
from pyvmm.hosts.model.mapping import ModelMapping
from pyvmm.hosts.model.refusals import refused
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE, KVM_USER_MEM_SLOTS
from pyvmm.rules.creation import CreateVm, create_vm, vm_types
from pyvmm.rules.profile import MAINLINE, Profile

_MAX_VCPUS = 64
_PHYSICAL_ADDRESS_BITS = 40
"""Physical address bits of the processor that Unicorn emulates."""


class ModelSystem(Owner):
    """A host whose kernel behaves as `profile` says. Raises `HostLacksError` without Unicorn."""

    def __init__(self, profile: Profile = MAINLINE) -> None:
        if not unicorn_library.is_installed():
            raise HostLacksError(
                "run a guest on the model", "Unicorn is not installed", unicorn_library.REMEDY
            )
        self._profile = profile
        self._mapped = Mapped()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def guest_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Nothing: the model's processors have a CPUID of their own."""
        return ()

    def keeps_xsave(self) -> bool:
        """Nothing goes past the model."""
        return True

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the model: all that the rules speak of."""
        private = self._profile.attributes is not None
        return Capabilities(
            api_version=12,
            max_vcpus=_MAX_VCPUS,
            nr_memslots=KVM_USER_MEM_SLOTS,
            user_memory2=True,
            memory_fault_info=True,
            memory_attributes=MemoryAttribute(self._profile.attributes or 0),
            guest_memfd=private or self._profile.default_vm_binds,
            guest_memfd_flags=GuestMemfdFlag(self._profile.guest_memfd_flags),
            vm_types=frozenset(VmType(one) for one in vm_types(self._profile)),
            pre_fault=False,
            hypercalls=1 << KVM_HC_MAP_GPA_RANGE,
            irqchip=True,
            pit2=True,
            irqfd=False,
            ioeventfd=False,
            immediate_exit=True,
            sync_regs=0,
            coalesced_pio=False,
            binary_stats=False,
            dirty_log_ring=0,
            disable_exits=2,
            user_space_msr=0,
            physical_address_bits=_PHYSICAL_ADDRESS_BITS,
            file_attributes=MemoryAttribute(self._profile.file_attributes or 0),
        )

    def most_breakpoints(self) -> int:
        """Count the breakpoints that a vCPU can have."""
        return MOST_BREAKPOINTS

    def can_step(self) -> bool:
        """Tell that a step ends after one instruction."""
        return True

    def create_vm(self, vm_type: VmType = VmType.DEFAULT) -> ModelVm:
        """KVM_CREATE_VM. Raises `SystemCallError` for a type that is not offered."""
        self.require_type(vm_type)
        return ModelVm(vm_type, self._profile, self._mapped)

    def require_type(self, vm_type: VmType) -> None:
        """Raise `SystemCallError` for a type that is not offered."""
        refusal = create_vm(CreateVm(int(vm_type)), self._profile)
        if refusal is not None:
            name = vm_type.name if isinstance(vm_type, VmType) else vm_type
            raise refused(f"create a VM of type {name}", refusal)

    def map_anonymous(self, size: int, *, in_core: bool = False) -> ModelMapping:
        """Guest RAM of `size` bytes; a core of this process has it only with `in_core`."""
        return ModelMapping(self._mapped.map(size, "guest memory", in_core=in_core))

    def close(self) -> None:
        """Nothing is held."""
