# SPDX-License-Identifier: MIT
"""A VM: its memory, its vCPUs, its capabilities."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import CData, ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.interrupt_objects import InterruptObjects
from pyvmm.hosts.kvm.ioctls import FdKind
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.kvm.posted import PostedRing
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.kvm.coalesced import CoalescedZone
    from pyvmm.hosts.kvm.saved_values import KvmSavedVm
    from pyvmm.hosts.kvm.saving import Saving
    from pyvmm.hosts.kvm.stats import Stats
    from pyvmm.hosts.saved_state import Origin, SavedVm

_MSR_FILTER_DEFAULT_DENY = 1
_CREATE_DEVICE_TEST = 1


@dataclass(frozen=True, slots=True)
class Clock:
    """``struct kvm_clock_data`` (api.rst 4.29): nanoseconds; the last two where `flags` says so."""

    clock: int
    flags: int = 0
    realtime: int = 0
    host_tsc: int = 0


@dataclass(frozen=True, slots=True)
class MsrFilterRange:
    """MSRs from `base` on (api.rst 4.126): `flags` 1 reads, 2 writes; `allowed`: one for each."""

    flags: int
    base: int
    allowed: Sequence[bool]


class Vm(InterruptObjects):
    """One VM, made by `System.create_vm`. All methods raise `KvmError` unless they say otherwise.

    Closing it lets go of the fd; the kernel's VM lives on as long as a vCPU or a guest_memfd of it
    is open.
    """

    WHAT = "VM"

    def __init__(
        self,
        fd: int,
        run_size: int,
        host_cpuid: Callable[[int], CData],
        posted_capacity: int | None = None,
        vm_type: VmType = VmType.DEFAULT,
        *,
        saving: Callable[[], Saving],
        recorder: Recorder | None = None,
    ) -> None:
        """Own `fd`; `run_size` is the answer to KVM_GET_VCPU_MMAP_SIZE, in bytes.

        `saving` gives what knows what there is to be saved, and what new controllers are like.
        """
        super().__init__(fd, recorder)
        self._run_size = run_size
        self._saving = saving
        self._has_apics = False
        self._has_pit = False
        self._host_cpuid = host_cpuid
        self.vm_type = vm_type
        self._dirty_ring_size = 0
        self._finish_hypercalls = False
        self._slot_sizes: dict[int, int] = {}
        try:
            self._posted = PostedRing(posted_capacity)
            self._conversions = FastConversions(fd)
        except BaseException:
            super().close()
            raise

    @property
    def posted(self) -> PostedRing:
        """The ring of posted port writes of this VM's vCPUs; closed with the VM."""
        return self._posted

    @property
    def conversions(self) -> FastConversions:
        """The conversions that this VM's vCPUs make by themselves; closed with the VM."""
        return self._conversions

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION as it answers for this VM and its type (api.rst 4.4)."""
        return call(ioctls.CHECK_EXTENSION, self, cap, kind=FdKind.VM)

    def enable_cap(self, cap: int, *args: int, flags: int = 0) -> None:
        """KVM_ENABLE_CAP on the VM, with up to four arguments (api.rst 4.37, 7)."""
        raw = new("struct kvm_enable_cap *", {"cap": cap, "flags": flags, "args": list(args)})
        described = f"cap={cap} args={[hex(arg) for arg in args]}"
        call(ioctls.ENABLE_CAP, self, raw, described)

    def enable_hypercall_exits(self, mask: int) -> None:
        """Hand hypercalls to user space: a mask of 1 << number (KVM_CAP_EXIT_HYPERCALL).

        Before the first vCPU: on a VM with private memory, vCPUs made from now on get past a
        hypercall of private code even where KVM would have to decode it, which it cannot.
        """
        self.enable_cap(Cap.EXIT_HYPERCALL, mask)
        self._finish_hypercalls = self.vm_type is not VmType.DEFAULT and mask != 0

    def enable_split_irqchip(self, pins: int) -> None:
        """Local APICs in the kernel, the rest here; `pins` GSIs for MSIs (api.rst 7.5)."""
        self.enable_cap(Cap.SPLIT_IRQCHIP, pins)
        self._has_apics = True

    def disable_exits(self, mask: int) -> None:
        """Let the guest do without an exit what `mask` says, before the first vCPU (api.rst 7.13).

        1 MWAIT, 2 HLT, 4 PAUSE, 8 C-states.
        """
        self.enable_cap(Cap.X86_DISABLE_EXITS, mask)

    def enable_user_space_msr(self, reasons: int) -> None:
        """Hand accesses to MSRs to user space (KVM_CAP_X86_USER_SPACE_MSR, api.rst 7.22).

        `reasons`: 1 invalid ones, 2 unknown ones, 4 those that `set_msr_filter` denies.
        """
        self.enable_cap(Cap.X86_USER_SPACE_MSR, reasons)

    def set_msr_filter(self, ranges: Sequence[MsrFilterRange], *, deny_by_default: bool) -> None:
        """Set the MSRs that the guest may access, at most 16 ranges (api.rst 4.126).

        KVM refuses a denying default without any range.
        """
        raw = new("struct kvm_msr_filter *")
        raw.flags = _MSR_FILTER_DEFAULT_DENY if deny_by_default else 0
        bitmaps: list[CData] = []  # kept until the ioctl has read them
        for number, one in enumerate(ranges):
            bitmap = new("uint8_t[]", (len(one.allowed) + 7) // 8)
            for bit, allowed in enumerate(one.allowed):
                bitmap[bit // 8] |= int(allowed) << bit % 8
            bitmaps.append(bitmap)
            target = raw.ranges[number]
            target.flags, target.nmsrs, target.base = one.flags, len(one.allowed), one.base
            target.bitmap = int(ffi.cast("uintptr_t", bitmap))
        call(ioctls.X86_SET_MSR_FILTER, self, raw, f"{len(ranges)} ranges")

    def create_guest_memfd(
        self,
        size: int,
        flags: GuestMemfdFlag = GuestMemfdFlag(0),  # noqa: B008 - immutable
    ) -> GuestMemfd:
        """A guest_memfd of `size` bytes, a multiple of the page size (api.rst 4.142)."""
        raw = new("struct kvm_create_guest_memfd *", {"size": size, "flags": int(flags)})
        fd = call(ioctls.CREATE_GUEST_MEMFD, self, raw, f"size={size} flags={int(flags):#x}")
        return GuestMemfd(fd, size, flags, self.recorder)

    def set_memslot(self, memslot: Memslot) -> None:
        """Create or change a memslot; a size of 0 deletes it.

        A slot with guest_memfd goes through KVM_SET_USER_MEMORY_REGION2 (api.rst 4.140), and its
        flag is implied; any other one through KVM_SET_USER_MEMORY_REGION (api.rst 4.35). A slot
        with guest_memfd cannot be changed, only deleted and made again. Any thread; vCPUs may be
        running: when a deletion returns, none of them has the slot's memory mapped any more.
        """
        flags = memslot.flags
        if memslot.guest_memfd is not None:
            flags |= MemslotFlag.GUEST_MEMFD
        fields = {
            "slot": memslot.slot,
            "flags": int(flags),
            "guest_phys_addr": memslot.gpa,
            "memory_size": memslot.size,
            "userspace_addr": memslot.hva,
        }
        described = (
            f"slot={memslot.slot} flags={int(flags):#x} gpa={memslot.gpa:#x} "
            f"size={memslot.size:#x} hva={memslot.hva:#x}"
        )
        if not flags & MemslotFlag.GUEST_MEMFD:
            raw = new("struct kvm_userspace_memory_region *", fields)
            call(ioctls.SET_USER_MEMORY_REGION, self, raw, described)
            self._slot_sizes[memslot.slot] = memslot.size
            return
        fd = _fd_of(memslot.guest_memfd)
        offset = memslot.guest_memfd_offset
        fields |= {"guest_memfd": fd & 0xFFFF_FFFF, "guest_memfd_offset": offset}
        raw = new("struct kvm_userspace_memory_region2 *", fields)
        described += f" guest_memfd={fd} offset={offset:#x}"
        call(ioctls.SET_USER_MEMORY_REGION2, self, raw, described)

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        """Set the attributes of [gpa, gpa + size), in bytes, page-aligned (api.rst 4.141)."""
        raw = new(
            "struct kvm_memory_attributes *",
            {"address": gpa, "size": size, "attributes": int(attributes)},
        )
        described = f"gpa={gpa:#x} size={size:#x} attributes={int(attributes):#x}"
        call(ioctls.SET_MEMORY_ATTRIBUTES, self, raw, described)

    def get_dirty_log(self, slot: int, size: int) -> bytes:
        """Read the bitmap of written pages of a memslot of `size` bytes (api.rst 4.8).

        One bit per page, the first page in the first byte's lowest bit, in multiples of 8 bytes.
        Unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is enabled, reading clears the log. Raises
        `UsageError` when `size` is less than the slot's: the kernel would write past the bitmap.
        """
        if size < self._slot_sizes.get(slot, 0):
            raise UsageError(
                f"read the dirty log of slot {slot} as {size} bytes",
                f"the slot has {self._slot_sizes[slot]}",
                "give its size",
            )
        bitmap = new("uint64_t[]", (size // PAGE_SIZE + 63) // 64)
        address = int(ffi.cast("uintptr_t", bitmap))
        raw = new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": address})
        call(ioctls.GET_DIRTY_LOG, self, raw, f"slot={slot}")
        return bytes(ffi.buffer(bitmap))

    def clear_dirty_log(self, slot: int, first_page: int, pages: int, bitmap: bytes) -> None:
        """Rearm the pages set in `bitmap`, which begins at `first_page` (api.rst 4.117).

        `first_page` is a multiple of 64, and so is `pages`, unless it reaches the slot's end.
        """
        copy = new("uint64_t[]", (max(pages, 8 * len(bitmap)) + 63) // 64)
        ffi.memmove(copy, bitmap, len(bitmap))
        fields = {
            "slot": slot,
            "num_pages": pages,
            "first_page": first_page,
            "dirty_bitmap": int(ffi.cast("uintptr_t", copy)),
        }
        described = f"slot={slot} first_page={first_page} pages={pages}"
        call(ioctls.CLEAR_DIRTY_LOG, self, new("struct kvm_clear_dirty_log *", fields), described)

    def enable_dirty_ring(self, size: int) -> None:
        """Rings of `size` bytes, a power of two, before the first vCPU (api.rst 8.29)."""
        self.enable_cap(Cap.DIRTY_LOG_RING, size)
        self._dirty_ring_size = size

    def reset_dirty_rings(self) -> int:
        """Rearm the pages that `DirtyRing.harvest` took on all vCPUs; how many (api.rst 8.29)."""
        return call(ioctls.RESET_DIRTY_RINGS, self)

    def coalesce(self, zone: CoalescedZone) -> None:
        """Let the kernel note down writes to `zone` without an exit (api.rst 4.116)."""
        from pyvmm.hosts.kvm import coalesced

        raw = coalesced.encode_zone(zone)
        call(ioctls.REGISTER_COALESCED_MMIO, self, raw, str(zone))

    def uncoalesce(self, zone: CoalescedZone) -> None:
        """Undo `coalesce`; what the ring holds stays there."""
        from pyvmm.hosts.kvm import coalesced

        raw = coalesced.encode_zone(zone)
        call(ioctls.UNREGISTER_COALESCED_MMIO, self, raw, str(zone))

    def set_tss_addr(self, gpa: int) -> None:
        """Set the GPA of three pages, below 4 GiB, for real mode on Intel (api.rst 4.36)."""
        call(ioctls.SET_TSS_ADDR, self, gpa)

    def set_identity_map_addr(self, gpa: int) -> None:
        """Set the GPA of one page for real mode on Intel; before the first vCPU (api.rst 4.41)."""
        raw = new("uint64_t *", gpa)
        call(ioctls.SET_IDENTITY_MAP_ADDR, self, raw, f"{gpa:#x}")

    def set_boot_cpu_id(self, index: int) -> None:
        """Set the vCPU that starts, the others waiting; before the first vCPU (api.rst 4.40)."""
        call(ioctls.SET_BOOT_CPU_ID, self, index)

    def get_clock(self) -> Clock:
        """The VM's paravirtual clock (KVM_GET_CLOCK, api.rst 4.29)."""
        raw = new("struct kvm_clock_data *")
        call(ioctls.GET_CLOCK, self, raw)
        return Clock(raw.clock, raw.flags, raw.realtime, raw.host_tsc)

    def set_clock(self, clock: Clock) -> None:
        """Set it (KVM_SET_CLOCK, api.rst 4.30); `flags` may only have bit 2, realtime."""
        fields = {"clock": clock.clock, "flags": clock.flags, "realtime": clock.realtime}
        call(ioctls.SET_CLOCK, self, new("struct kvm_clock_data *", fields), str(clock))

    def has_device(self, kind: int) -> bool:
        """Tell whether KVM_CREATE_DEVICE would make a device of this type (api.rst 4.79)."""
        raw = new("struct kvm_create_device *", {"type": kind, "flags": _CREATE_DEVICE_TEST})
        try:
            call(ioctls.CREATE_DEVICE, self, raw, f"type={kind} flags=test")
        except KvmError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def create_device(self, kind: int) -> FdOwner:
        """An in-kernel device, as the owner of its fd (KVM_CREATE_DEVICE, api.rst 4.79)."""
        raw = new("struct kvm_create_device *", {"type": kind})
        call(ioctls.CREATE_DEVICE, self, raw, f"type={kind}")
        return FdOwner(raw.fd, self.recorder)

    def statistics(self) -> Stats:
        """The VM's statistics (KVM_GET_STATS_FD, api.rst 4.133)."""
        from pyvmm.hosts.kvm.stats import Stats

        return Stats(call(ioctls.GET_STATS_FD, self, kind=FdKind.VM))

    def create_vcpu(self, index: int) -> Vcpu:
        """The vCPU `index`, which is also its APIC id (api.rst 4.7); for the calling thread."""
        fd = call(ioctls.CREATE_VCPU, self, index)
        kind = Vcpu
        if self.recorder is not None:
            from pyvmm.hosts.kvm.recorded_vcpu import RecordedVcpu as kind  # noqa: N813
        return kind(
            fd,
            index,
            self._run_size,
            self._posted,
            self._conversions,
            host_cpuid=self._host_cpuid,
            dirty_ring_size=self._dirty_ring_size,
            finish_hypercalls=self._finish_hypercalls,
            vm_type=self.vm_type,
            has_apic=self._has_apics,
            saving=self._saving,
            recorder=self.recorder,
        )

    def create_irqchip(self) -> None:
        """In-kernel PIC, I/O APIC and local APICs; before the first vCPU (api.rst 4.24)."""
        super().create_irqchip()
        self._has_apics = True

    def create_pit(self, *, speaker: bool = True) -> None:
        """In-kernel 8254, as `VmInterrupts.create_pit` says."""
        super().create_pit(speaker=speaker)
        self._has_pit = True

    def reset_controllers(self) -> None:
        """The in-kernel controllers and the timer as they were made; while no vCPU runs."""
        self.restore(self._saving().new_controllers(has_pit=self._has_pit))

    @property
    def origin(self) -> Origin:
        """Origin of what is saved here. Raises `KvmError`."""
        return self._saving().origin

    def save(self) -> KvmSavedVm:
        """Clock, controllers and timer, while no vCPU runs; not memory."""
        from pyvmm.hosts.kvm import saved_vm

        origin = self.origin
        return saved_vm.save(self, origin, has_irqchip=self._has_irqchip, has_pit=self._has_pit)

    def restore(self, saved: SavedVm) -> None:
        """Take a state that `save` gave, while no vCPU runs; see `interface.Vm.restore`."""
        from pyvmm.hosts.kvm import saved_vm

        origin = self.origin
        has_irqchip, has_pit = self._has_irqchip, self._has_pit
        saved_vm.restore(self, saved, origin, has_irqchip=has_irqchip, has_pit=has_pit)

    def close(self) -> None:
        """Close the VM's fd, its conversions and its posted ring; a second call does nothing."""
        # A VM whose construction failed has neither, or only one of them.
        for part in ("_conversions", "_posted"):
            owner: Owner | None = getattr(self, part, None)
            if owner is not None:
                owner.close()
        super().close()


def _fd_of(guest_memfd: interface.GuestMemfd | None) -> int:
    """The fd of a guest_memfd of this host; -1, which the kernel refuses, for anything else."""
    return guest_memfd.fd if isinstance(guest_memfd, GuestMemfd) else -1
