"""A VM: its memory, its vCPUs, its capabilities."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import call, new
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.cpuid import CpuidEntry
from pyvmm.hosts.kvm.guest_memory import GuestMemfd
from pyvmm.hosts.kvm.interrupts import VmInterrupts
from pyvmm.hosts.kvm.ioctls import FdKind
from pyvmm.hosts.kvm.posted import PostedRing
from pyvmm.hosts.kvm.vcpu import Vcpu


class Vm(VmInterrupts):
    """One VM, made by `System.create_vm`. All methods raise `KvmError` unless they say otherwise.

    Closing it lets go of the fd; the kernel's VM lives on as long as a vCPU or a guest_memfd of it
    is open.
    """

    def __init__(
        self, fd: int, run_size: int, host_cpuid: Callable[[], tuple[CpuidEntry, ...]]
    ) -> None:
        """Own `fd`; `run_size` is the answer to KVM_GET_VCPU_MMAP_SIZE, in bytes."""
        super().__init__(fd)
        self._run_size = run_size
        self._host_cpuid = host_cpuid
        try:
            self._posted = PostedRing()
        except BaseException:
            super().close()
            raise

    @property
    def posted(self) -> PostedRing:
        """The ring of posted port writes of this VM's vCPUs; closed with the VM."""
        return self._posted

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION as it answers for this VM and its type (api.rst 4.4)."""
        return call(ioctls.CHECK_EXTENSION, self.fd, cap, kind=FdKind.VM)

    def enable_cap(self, cap: int, *args: int, flags: int = 0) -> None:
        """KVM_ENABLE_CAP on the VM, with up to four arguments (api.rst 4.37, 7)."""
        raw = new("struct kvm_enable_cap *", {"cap": cap, "flags": flags, "args": list(args)})
        described = f"cap={cap} args={[hex(arg) for arg in args]}"
        call(ioctls.ENABLE_CAP, self.fd, raw, described)

    def enable_hypercall_exits(self, mask: int) -> None:
        """Hand hypercalls to user space: a mask of 1 << number (KVM_CAP_EXIT_HYPERCALL)."""
        self.enable_cap(Cap.EXIT_HYPERCALL, mask)

    def create_guest_memfd(
        self,
        size: int,
        flags: GuestMemfdFlag = GuestMemfdFlag(0),  # noqa: B008 - immutable
    ) -> GuestMemfd:
        """A guest_memfd of `size` bytes, a multiple of the page size (api.rst 4.142)."""
        raw = new("struct kvm_create_guest_memfd *", {"size": size, "flags": int(flags)})
        fd = call(ioctls.CREATE_GUEST_MEMFD, self.fd, raw, f"size={size} flags={int(flags):#x}")
        return GuestMemfd(fd, size, flags)

    def set_memslot(self, memslot: Memslot) -> None:
        """Create or change a memslot; a size of 0 deletes it.

        A slot with guest_memfd goes through KVM_SET_USER_MEMORY_REGION2 (api.rst 4.140), and its
        flag is implied; any other one through KVM_SET_USER_MEMORY_REGION (api.rst 4.35). A slot
        with guest_memfd cannot be changed, only deleted and made again.
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
            call(ioctls.SET_USER_MEMORY_REGION, self.fd, raw, described)
            return
        fd = _fd_of(memslot.guest_memfd)
        offset = memslot.guest_memfd_offset
        fields |= {"guest_memfd": fd & 0xFFFF_FFFF, "guest_memfd_offset": offset}
        raw = new("struct kvm_userspace_memory_region2 *", fields)
        described += f" guest_memfd={fd} offset={offset:#x}"
        call(ioctls.SET_USER_MEMORY_REGION2, self.fd, raw, described)

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        """Set the attributes of [gpa, gpa + size), in bytes, page-aligned (api.rst 4.141)."""
        raw = new(
            "struct kvm_memory_attributes *",
            {"address": gpa, "size": size, "attributes": int(attributes)},
        )
        described = f"gpa={gpa:#x} size={size:#x} attributes={int(attributes):#x}"
        call(ioctls.SET_MEMORY_ATTRIBUTES, self.fd, raw, described)

    def create_vcpu(self, index: int) -> Vcpu:
        """The vCPU `index`, which is also its APIC id (api.rst 4.7); for the calling thread."""
        fd = call(ioctls.CREATE_VCPU, self.fd, index)
        return Vcpu(fd, index, self._run_size, self._posted, self._host_cpuid)

    def close(self) -> None:
        """Close the VM's fd and its posted ring; a second call does nothing."""
        posted = getattr(self, "_posted", None)
        if posted is not None:
            posted.close()
        super().close()


def _fd_of(guest_memfd: interface.GuestMemfd | None) -> int:
    """The fd of a guest_memfd of this host; -1, which the kernel refuses, for anything else."""
    return guest_memfd.fd if isinstance(guest_memfd, GuestMemfd) else -1
