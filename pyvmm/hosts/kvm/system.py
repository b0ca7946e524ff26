# SPDX-License-Identifier: MIT
"""/dev/kvm itself: what it offers, and new VMs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, NoPermissionError
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.cpuid import CpuidEntry
from pyvmm.hosts.kvm import cpuid, ioctls
from pyvmm.hosts.kvm.binding import CData, new, refused
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.constants import API_VERSION, Cap
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import IoctlSpec
from pyvmm.hosts.kvm.mapping import Mapping, map_anonymous
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.rules.abi import PAGE_SIZE

DEVICE = "/dev/kvm"
_ELSEWHERE = "load the kvm module, use a machine with KVM, or use --host lab"


def _open(path: str) -> int:
    attempt = f"open {path}"
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise NoPermissionError(
            attempt,
            "this user may not",
            "join the group that owns it (usually `kvm`), or use --host lab",
        ) from error
    except FileNotFoundError as error:
        raise HostLacksError(
            attempt,
            "it does not exist",
            _ELSEWHERE,
        ) from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise HostLacksError(
                attempt, f"there is no KVM behind it ({error.strerror})", _ELSEWHERE
            ) from error
        raise refused(error.errno or 0, attempt) from error


def _api_version(system: Descriptor, path: str) -> int:
    try:
        return call(ioctls.GET_API_VERSION, system)
    except KvmError as error:
        if error.errno == errno.ENOTTY:
            cause = "it is no KVM: it does not know KVM_GET_API_VERSION"
            raise HostLacksError(f"use {path}", cause, _ELSEWHERE) from error
        raise


class _Answers:
    """Answers of one KVM about itself: asked for at the first need, then kept by this process."""

    def __init__(self) -> None:
        self.capabilities: Capabilities | None = None
        self.cpuid: CData | None = None
        self.cpuid_of_vcpu: dict[int, CData] = {}
        self.known: Known | None = None
        self.breakpoints: int | None = None
        self.steps: bool | None = None
        self.guest_cpuid: tuple[CpuidEntry, ...] | None = None
        self.keeps_xsave: bool | None = None


_answers: dict[tuple[int, int, int], _Answers] = {}


def _answers_of(fd: int) -> _Answers:
    """The answers of the KVM behind `fd`.

    They cannot change while the module is loaded; a module loaded anew makes its device file anew.
    """
    status = os.fstat(fd)
    return _answers.setdefault((status.st_dev, status.st_ino, status.st_ctime_ns), _Answers())


class System(FdOwner):
    """The KVM of this machine. All methods raise `KvmError` unless they say otherwise."""

    WHAT = "KVM"

    def __init__(self, path: str = DEVICE, *, recorder: Recorder | None = None) -> None:
        """Open `path`; `recorder` is told of what this and all that is made by it asks the kernel.

        Raises `HostLacksError` where there is no KVM, or one of another API version;
        `NoPermissionError` where this user may not use it; `SystemCallError`.
        """
        super().__init__(_open(path), recorder)
        if recorder is not None:
            from pyvmm.hosts.kvm.recording import tell

            tell(recorder, "open", path, self.fd, request="O_RDWR|O_CLOEXEC")
        try:
            version = _api_version(self, path)
            if version != API_VERSION:
                raise HostLacksError(
                    f"use {path}", f"its API version is {version}, not {API_VERSION}"
                )
            self._run_size = call(ioctls.GET_VCPU_MMAP_SIZE, self)
        except BaseException:
            self.close()
            raise
        self.api_version = version
        self._answers = _answers_of(self.fd)

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION (api.rst 4.4): 0 means that the host lacks it."""
        return call(ioctls.CHECK_EXTENSION, self, cap)

    def extensions(self) -> tuple[Extension, ...]:
        """The answers for all extensions known, by number; what KVM lacks has the value 0."""
        from pyvmm.hosts.kvm.extensions import KNOWN, Extension

        return tuple(
            Extension(name, number, self.check_extension(number), about)
            for name, number, about in KNOWN
        )

    def msr_indices(self) -> tuple[int, ...]:
        """The MSRs of a guest that can be read and set (KVM_GET_MSR_INDEX_LIST, api.rst 4.3)."""
        return self._msr_list(ioctls.GET_MSR_INDEX_LIST)

    def msr_feature_indices(self) -> tuple[int, ...]:
        """The MSRs that tell the host's features (KVM_GET_MSR_FEATURE_INDEX_LIST, api.rst 4.3)."""
        return self._msr_list(ioctls.GET_MSR_FEATURE_INDEX_LIST)

    def _msr_list(self, spec: IoctlSpec) -> tuple[int, ...]:
        room = 0
        while True:
            raw = new("struct kvm_msr_list *", {"nmsrs": room, "indices": room})
            try:
                call(spec, self, raw, f"nmsrs={room}")
            except KvmError as error:
                # With E2BIG the kernel has filled in how many there are.
                if error.errno != errno.E2BIG or raw.nmsrs <= room:
                    raise
                room = raw.nmsrs
            else:
                return tuple(raw.indices[i] for i in range(raw.nmsrs))

    def emulated_cpuid(self) -> tuple[CpuidEntry, ...]:
        """CPUID features that only the emulator offers (KVM_GET_EMULATED_CPUID, api.rst 4.88)."""
        return cpuid.fetch(ioctls.GET_EMULATED_CPUID, self)

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Every CPUID feature that a guest can be given (KVM_GET_SUPPORTED_CPUID)."""
        return cpuid.decode(self._cpuid_table())

    def guest_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Return `supported_cpuid`, with the TSC deadline timer that in-kernel APICs have.

        Kernels before 6.14 leave that to an extension of its own (api.rst 4.46).
        """
        if self._answers.guest_cpuid is None:
            found = self.supported_cpuid()
            if self.check_extension(Cap.TSC_DEADLINE_TIMER):
                from pyvmm.hosts.guest_cpuid import with_tsc_deadline

                found = tuple(with_tsc_deadline(one) for one in found)
            self._answers.guest_cpuid = found
        return self._answers.guest_cpuid

    def keeps_xsave(self) -> bool:
        """Tell whether a guest's XSETBV, tried once, is seen by KVM."""
        if self._answers.keeps_xsave is None:
            from pyvmm.hosts.kvm.xsave_trial import try_xsetbv

            with self.create_vm() as vm, self.map_anonymous(PAGE_SIZE) as ram:
                self._answers.keeps_xsave = try_xsetbv(vm, ram)
        return self._answers.keeps_xsave

    def _cpuid_table(self) -> CData:
        if self._answers.cpuid is None:
            self._answers.cpuid = cpuid.fetch_table(ioctls.GET_SUPPORTED_CPUID, self)
        return self._answers.cpuid

    def _cpuid_for(self, index: int) -> CData:
        """The table for vCPU `index`, to be given to it as it is."""
        table = self._answers.cpuid_of_vcpu.get(index)
        if table is None:
            table = cpuid.table_for_vcpu(self._cpuid_table(), index)
            self._answers.cpuid_of_vcpu[index] = table
        return table

    def capabilities(self) -> Capabilities:
        """Return the capabilities of this host."""
        if self._answers.capabilities is None:
            has = self._answers.capabilities = self._ask()
            if VmType.SW_PROTECTED in has.vm_types and not has.memory_attributes:
                kept = self._file_attributes()
                self._answers.capabilities = has._replace(file_attributes=kept)
        return self._answers.capabilities

    def _file_attributes(self) -> MemoryAttribute:
        """Ask by a request that is always refused: with ENOTTY where there is no such ioctl.

        Only a KVM that has VMs with private memory, and keeps no attributes for them, can have it.
        """
        from pyvmm.hosts.kvm import in_place

        private = MemoryAttribute.PRIVATE
        with self.create_vm(VmType.SW_PROTECTED) as vm:
            with vm.create_guest_memfd(PAGE_SIZE, GuestMemfdFlag(0)) as file:
                number, _ = in_place.issue(file, 0, 0, int(private))
        return MemoryAttribute(0) if number == errno.ENOTTY else private

    def _ask(self) -> Capabilities:
        ask = self.check_extension
        types = ask(Cap.VM_TYPES)
        return Capabilities(
            api_version=self.api_version,
            # Before KVM_CAP_MAX_VCPUS there was a recommendation only (api.rst 4.7).
            max_vcpus=ask(Cap.MAX_VCPUS) or ask(Cap.NR_VCPUS) or 4,
            nr_memslots=ask(Cap.NR_MEMSLOTS),
            user_memory2=bool(ask(Cap.USER_MEMORY2)),
            memory_fault_info=bool(ask(Cap.MEMORY_FAULT_INFO)),
            memory_attributes=MemoryAttribute(ask(Cap.MEMORY_ATTRIBUTES)),
            guest_memfd=bool(ask(Cap.GUEST_MEMFD)),
            guest_memfd_flags=GuestMemfdFlag(ask(Cap.GUEST_MEMFD_FLAGS)),
            # A kernel that knows no types has the default one.
            vm_types=frozenset(t for t in VmType if types & 1 << t) or frozenset({VmType.DEFAULT}),
            pre_fault=bool(ask(Cap.PRE_FAULT_MEMORY)),
            hypercalls=ask(Cap.EXIT_HYPERCALL),
            irqchip=bool(ask(Cap.IRQCHIP)),
            pit2=bool(ask(Cap.PIT2)),
            irqfd=bool(ask(Cap.IRQFD)),
            ioeventfd=bool(ask(Cap.IOEVENTFD)),
            immediate_exit=bool(ask(Cap.IMMEDIATE_EXIT)),
            sync_regs=ask(Cap.SYNC_REGS),
            coalesced_pio=bool(ask(Cap.COALESCED_PIO)),
            binary_stats=bool(ask(Cap.BINARY_STATS_FD)),
            dirty_log_ring=ask(Cap.DIRTY_LOG_RING),
            disable_exits=ask(Cap.X86_DISABLE_EXITS),
            user_space_msr=ask(Cap.X86_USER_SPACE_MSR),
            physical_address_bits=cpuid.physical_address_bits(self._cpuid_table()),
        )

    def create_vm(
        self, vm_type: VmType = VmType.DEFAULT, *, posted_capacity: int | None = None
    ) -> Vm:
        """A new VM (api.rst 4.2); `posted_capacity` as in `PostedRing`."""
        fd = call(ioctls.CREATE_VM, self, int(vm_type))
        return Vm(
            fd,
            self._run_size,
            self._cpuid_for,
            posted_capacity,
            vm_type,
            saving=self._saving,
            recorder=self.recorder,
        )

    def _saving(self) -> Saving:
        from pyvmm.hosts.kvm.saving import Known, Saving  # Most VMs are never saved or reset.

        if self._answers.known is None:
            self._answers.known = Known()
        return Saving(self._answers.known, self, self._cpuid_table, self.create_vm)

    def most_breakpoints(self) -> int:
        """Count the breakpoints that a vCPU can have; 0: a guest, tried with one, ran past it."""
        if self._answers.breakpoints is None:
            from pyvmm.hosts.kvm.breakpoints import try_one

            self._answers.breakpoints = try_one(self)
        return self._answers.breakpoints

    def can_step(self) -> bool:
        """Tell whether a step ends after one instruction: one has been tried."""
        if self._answers.steps is None:
            from pyvmm.hosts.kvm.breakpoints import try_step

            self._answers.steps = try_step(self)
        return self._answers.steps

    def map_anonymous(self, size: int, *, in_core: bool = False) -> Mapping:
        """`size` bytes of guest RAM from an anonymous memfd; see `Mapping` for `in_core`.

        Raises `UsageError` for a size that is no positive multiple of a page, `SystemCallError`.
        """
        return map_anonymous(size, in_core=in_core, recorder=self.recorder)


if TYPE_CHECKING:
    from pyvmm.hosts import interface
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.kvm.extensions import Extension
    from pyvmm.hosts.kvm.saving import Known, Saving

    def _is_a_host(system: System) -> interface.System:
        """Holds this package to the interface: the type checker refuses it otherwise."""
        return system
