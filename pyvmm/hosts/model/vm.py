# SPDX-License-Identifier: MIT
"""A VM of the model: KVM's ioctls on a VM, judged by `pyvmm.rules` and carried out here."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import NO_GUEST_MEMFD_FLAGS, Memslot, MemslotFlag
from pyvmm.hosts.interrupts import DoorbellPlace, Trigger
from pyvmm.hosts.model.conversions import ModelConversions
from pyvmm.hosts.model.doorbells import ModelDoorbell, ModelDoorbells
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.hosts.model.guest_space import GuestSpace, ModelSlot
from pyvmm.hosts.model.host_memory import Mapped
from pyvmm.hosts.model.posted import ModelPosts
from pyvmm.hosts.model.refusals import closed, refused
from pyvmm.hosts.model.turn import Turn
from pyvmm.hosts.owner import Owner
from pyvmm.rules.attributes import SetAttributes, set_attributes
from pyvmm.rules.creation import CreateGuestMemfd, create_guest_memfd
from pyvmm.rules.memslots import (
    Change,
    GuestMemfdFile,
    NoGuestMemfd,
    SetRegion,
    Slot,
    set_region,
)
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal

if TYPE_CHECKING:
    from pyvmm.hosts.model.address_space import InterruptControllers
    from pyvmm.hosts.model.controllers import ModelControllers
    from pyvmm.hosts.model.lines import ModelGsis, ModelLine, ModelMessage
    from pyvmm.hosts.model.saved_values import ModelSavedVm
    from pyvmm.hosts.model.vcpu import ModelVcpu
    from pyvmm.hosts.saved_state import Origin, SavedVm


class ModelVm(Owner):
    """One VM, made by `ModelSystem.create_vm`. Methods raise `SystemCallError` as KVM would.

    `mapped` knows what is mapped at a host address. As in the kernel, closing the VM lets go of the
    descriptor, and its memory stays while a vCPU holds it.
    """

    def __init__(
        self,
        vm_type: VmType,
        profile: Profile,
        mapped: Mapped,
    ) -> None:
        self.vm_type = vm_type
        self._private = vm_type is not VmType.DEFAULT
        self._profile = profile
        self._mapped = mapped
        self.memory = GuestSpace(private=self._private)
        self.posts = ModelPosts()
        self.turn_lock = Turn()
        self.hypercall_exits = 0
        self.disabled_exits = 0
        self._conversions = ModelConversions()
        self._controllers: ModelControllers | None = None
        self._gsis: ModelGsis | None = None
        self.doorbells = ModelDoorbells()
        self._vcpus: dict[int, ModelVcpu] = {}
        self._open = True
        self._references = 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of type {self.vm_type.name}>"

    # -- interface.Vm --

    @property
    def posted(self) -> ModelPosts:
        """The ring of posted port writes."""
        return self.posts

    @property
    def conversions(self) -> ModelConversions:
        """The lock of conversions; there is no fast path."""
        return self._conversions

    def create_guest_memfd(
        self, size: int, flags: GuestMemfdFlag = NO_GUEST_MEMFD_FLAGS
    ) -> ModelGuestMemfd:
        """KVM_CREATE_GUEST_MEMFD (api.rst 4.142)."""
        self.require_creation(size, flags)
        return ModelGuestMemfd(
            size,
            flags,
            self,
            self._profile,
            self._mapped,
            private_vm=self._private,
        )

    def require_creation(self, size: int, flags: GuestMemfdFlag) -> None:
        """Raise `SystemCallError` for a guest_memfd that cannot be made."""
        attempt = f"create a guest_memfd of {size} bytes, flags {int(flags):#x}"
        self._require_open(attempt)
        request = CreateGuestMemfd(size, int(flags), self._private)
        refusal = create_guest_memfd(request, self._profile)
        if refusal is not None:
            raise refused(attempt, refusal)

    def set_memslot(self, memslot: Memslot) -> None:
        """KVM_SET_USER_MEMORY_REGION2 (api.rst 4.140)."""
        attempt = f"set memory slot {memslot.slot} at {memslot.gpa:#x}, {memslot.size} bytes"
        self._require_open(attempt)
        flags = memslot.flags
        if memslot.guest_memfd is not None:
            flags |= MemslotFlag.GUEST_MEMFD
        with self.turn():
            request = SetRegion(
                slot=memslot.slot,
                gpa=memslot.gpa,
                size=memslot.size,
                hva=memslot.hva,
                flags=int(flags),
                offset=memslot.guest_memfd_offset,
                descriptor=self._descriptor(memslot),
                vm=id(self),
                private_vm=self._private,
                slots=tuple(slot.slot for slot in self.memory.slots),
            )
            outcome = set_region(request, self._profile)
            if isinstance(outcome, Refusal):
                raise refused(attempt, outcome)
            if outcome is Change.DELETE:
                self.memory.delete_slot(memslot.slot)
            elif outcome is not Change.NOTHING:
                self.memory.set_slot(self._slot(memslot, int(flags)))

    def _descriptor(self, memslot: Memslot) -> GuestMemfdFile | NoGuestMemfd:
        file = memslot.guest_memfd
        if not isinstance(file, ModelGuestMemfd):
            return NoGuestMemfd.NOT_OPEN if file is None else NoGuestMemfd.OTHER_FILE
        if not file.is_open:
            return NoGuestMemfd.NOT_OPEN
        bound = tuple(
            (slot.memslot.guest_memfd_offset, slot.memslot.guest_memfd_offset + slot.slot.size)
            for slot in self.memory.slots
            if slot.file is file
        )
        return GuestMemfdFile(id(file.vm), file.size, int(file.flags), bound)

    def _slot(self, memslot: Memslot, flags: int) -> ModelSlot:
        file = memslot.guest_memfd
        return ModelSlot(
            Slot(memslot.slot, memslot.gpa, memslot.size, memslot.hva, flags),
            memslot,
            self._mapped.find(memslot.hva, memslot.size),
            file if isinstance(file, ModelGuestMemfd) else None,
        )

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES (api.rst 4.141)."""
        attempt = f"set the attributes of {size} bytes at {gpa:#x}"
        self._require_open(attempt)
        request = SetAttributes(gpa, size, int(attributes), self._private)
        refusal = set_attributes(request, self._profile)
        if refusal is not None:
            raise refused(attempt, refusal)
        with self.turn():
            self.memory.set_attributes(gpa, size, private=MemoryAttribute.PRIVATE in attributes)

    def create_irqchip(self) -> None:
        """Interrupt controllers; before the first vCPU."""
        attempt = "create interrupt controllers"
        self._require_open(attempt)
        if self._controllers is not None:
            raise SystemCallError(attempt, errno.EEXIST, "EEXIST (there are some already)")
        if self._vcpus:
            raise SystemCallError(attempt, errno.EINVAL, "EINVAL (there are vCPUs already)")
        from pyvmm.hosts.model.controllers import ModelControllers
        from pyvmm.hosts.model.lines import ModelGsis

        self._controllers = ModelControllers()
        self._gsis = ModelGsis(self._controllers)

    def create_pit(self) -> None:
        """The 8254; after `create_irqchip`."""
        self._with_controllers("create a timer").create_pit()

    def set_irq_line(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line."""
        self._with_controllers("set an interrupt line").raise_line(gsi, level)

    def create_line(
        self,
        gsi: int,
        trigger: Trigger,
        owner: str,
        *,
        shared: bool = False,
        resample: bool = False,
    ) -> ModelLine:
        """A line to pin `gsi`; those from 16 on, which are an I/O APIC's alone, lead nowhere."""
        gsis = self._with_gsis(f"give GSI {gsi} to {owner}")
        return gsis.create_line(gsi, trigger, owner, shared=shared, resample=resample)

    def create_message(self, owner: str) -> ModelMessage:
        """A message, masked and without a route."""
        return self._with_gsis(f"give a message interrupt to {owner}").create_message(owner)

    def create_doorbell(self, place: DoorbellPlace, owner: str) -> ModelDoorbell:
        """A doorbell."""
        self._require_open(f"put a doorbell of {owner} at {place}")
        return self.doorbells.create(place, owner)

    def changing_routes(self) -> AbstractContextManager[None]:
        """Change routes at no cost: there is no table in a kernel to be written."""
        self._with_gsis("change routes of interrupts")
        return nullcontext()

    def _with_gsis(self, attempt: str) -> ModelGsis:
        self._with_controllers(attempt)
        assert self._gsis is not None
        return self._gsis

    def can_send_unmaskable(self) -> bool:
        """Never: an 8259 sends interrupts alone, and so do the messages that there are."""
        return False

    def reset_controllers(self) -> None:
        """The controllers and the timer as they were made."""
        self._with_controllers("reset the interrupt controllers").reset()

    @property
    def origin(self) -> Origin:
        """Origin of what is saved here. Raises `HostLacksError` without Unicorn."""
        from pyvmm.hosts.model.origin import origin

        return origin()

    def save(self) -> ModelSavedVm:
        """The controllers and the timer, while no vCPU runs; there is no clock beside."""
        from pyvmm.hosts.model.saved_values import ModelSavedVm

        self._require_open("save a VM")
        if self._controllers is None:
            return ModelSavedVm(self.origin, (), None)
        return self._controllers.save(self.origin)

    def restore(self, saved: SavedVm) -> None:
        """Take a state that `save` gave, while no vCPU runs; see `interface.Vm.restore`."""
        from pyvmm.hosts.model.saved_values import ModelSavedVm
        from pyvmm.hosts.saved_state import require_same_controllers, require_same_origin

        self._require_open("restore a VM")
        require_same_origin(saved.origin, self.origin)
        if not isinstance(saved, ModelSavedVm):
            raise InternalError("restore a VM", f"a {type(saved).__name__} is not the model's")
        if self._controllers is None:
            require_same_controllers("a VM", saved=bool(saved.pics), here=False)
        else:
            self._controllers.restore(saved)

    def _with_controllers(self, attempt: str) -> ModelControllers:
        self._require_open(attempt)
        if self._controllers is None:
            raise SystemCallError(attempt, errno.ENXIO, "ENXIO (no interrupt controllers)")
        return self._controllers

    def enable_hypercall_exits(self, mask: int) -> None:
        """KVM_CAP_EXIT_HYPERCALL."""
        self.hypercall_exits = mask

    def disable_exits(self, mask: int) -> None:
        """KVM_CAP_X86_DISABLE_EXITS."""
        self.disabled_exits = mask

    def create_vcpu(self, index: int) -> ModelVcpu:
        """The vCPU `index`, for the calling thread."""
        self._require_open(f"create vCPU {index}")
        if index in self._vcpus:
            raise SystemCallError(f"create vCPU {index}", errno.EEXIST, "EEXIST (there is one)")
        vcpu = self._make_vcpu(index)
        self.hold()
        self._vcpus[index] = vcpu
        return vcpu

    def _make_vcpu(self, index: int) -> ModelVcpu:
        from pyvmm.hosts.model.vcpu import ModelVcpu

        return ModelVcpu(index, self, self.release)

    def duplicate(self) -> Owner:
        """One more descriptor, which holds it."""
        from pyvmm.hosts.model.duplicate import ModelDuplicate

        self._require_open("duplicate a VM's descriptor")
        self.hold()
        return ModelDuplicate(self.release)

    # -- VcpuServices --

    @property
    def controllers(self) -> InterruptControllers | None:
        """The interrupt controllers, if there are any."""
        return self._controllers

    def convert(self, gpa: int, size: int, private: bool) -> bool:
        """No fast path: an exit as usual."""
        del gpa, size, private
        return False

    def turn(self) -> AbstractContextManager[None]:
        """Hold the VM: vCPUs and changes of memory take turns."""
        return self.turn_lock()

    @property
    def turn_wanted(self) -> bool:
        """True while somebody waits for the turn."""
        return self.turn_lock.is_wanted

    # -- life --

    def _require_open(self, attempt: str) -> None:
        if not self._open:
            raise closed(attempt)

    def hold(self) -> None:
        """Keep the memory when the VM is closed: a vCPU or another descriptor of it is open."""
        self._references += 1

    def release(self) -> None:
        """Undo one `hold`; the last one frees the memory."""
        self._references -= 1
        if not self._references:
            with self.turn():
                self.memory.close()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._open:
            self._open = False
            self._conversions.close()
            self.release()
            self.posts.close()
