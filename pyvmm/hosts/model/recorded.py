# SPDX-License-Identifier: MIT
"""The model for those who watch: it tells of each call that KVM would have got, and of each exit.

Descriptors are the model's own numbers, counted up from 3; none of the process is meant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyvmm.errors import SystemCallError
from pyvmm.hosts import own_memory
from pyvmm.hosts.call_fields import (
    LEAST,
    attributes_fields,
    file_attributes_fields,
    guest_memfd_fields,
    length_field,
    memslot_fields,
    range_fields,
    regs_fields,
)
from pyvmm.hosts.call_record import (
    Field,
    Made,
    Recorder,
    SystemCall,
    number_field,
    vm_type_name,
)
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import NO_GUEST_MEMFD_FLAGS, Memslot
from pyvmm.hosts.model.address_space import VcpuServices
from pyvmm.hosts.model.duplicate import ModelDuplicate
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.hosts.model.host_memory import HostMemory, Mapped
from pyvmm.hosts.model.mapping import ModelMapping
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.turn import TakesTurns
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.page_held import PageHeldError
from pyvmm.hosts.registers import Regs
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.profile import MAINLINE, Profile

_SYSTEM_FD = 3
_MAP_FLAGS = number_field("flags", 0x4001, 4, "MAP_SHARED|MAP_NORESERVE")
_KEEP_SIZE = "FALLOC_FL_KEEP_SIZE"


class Telling:
    """One call, as a block: it is told at the end, with an errno where that refuses it.

    `ioctl` and `call` of `ModelRecording` make one; the result is that of a call that succeeds.
    """

    def __init__(
        self,
        recorder: Recorder,
        words: tuple[str, str, str, str],
        given: tuple[str, tuple[Field, ...]],
        result: int,
    ) -> None:
        self._recorder = recorder
        self._words = words
        self._given = given
        self.result = result

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        if value is None:
            self.tell()
        elif isinstance(value, PageHeldError):
            self.tell(value.errno, (number_field("error_offset", value.error_offset, offset=32),))
        elif isinstance(value, SystemCallError):
            self.tell(value.errno)

    def tell(self, errno: int = 0, returned: tuple[Field, ...] = ()) -> None:
        """Tell of it: it was done, or refused with `errno`; and what the kernel wrote back."""
        name, request, target, section = self._words
        structure, fields = self._given
        self._recorder.call(
            SystemCall(
                made=Made.MODEL,
                name=name,
                request=request,
                target=target,
                structure=structure,
                given=fields,
                returned=returned,
                result=-1 if errno else self.result,
                errno=errno,
                section=section,
                thread=threading.current_thread().name,
            )
        )


class ModelRecording:
    """The recorder of one `RecordedModelSystem`, and numbers for what would have descriptors."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._next = _SYSTEM_FD + 1
        self._lock = threading.Lock()

    def descriptor(self) -> int:
        """A number for one more object."""
        with self._lock:
            self._next += 1
            return self._next - 1

    def ioctl(
        self,
        request: str,
        target: str,
        section: str,
        given: tuple[str, tuple[Field, ...]] = ("", ()),
        result: int = 0,
    ) -> Telling:
        """Tell of an ioctl; `given`: the C type, and its fields."""
        return Telling(
            self.recorder, ("ioctl", request, target, f"api.rst {section}"), given, result
        )

    def call(
        self, name: str, target: str, *given: Field, request: str = "", result: int = 0
    ) -> Telling:
        """Tell of another system call."""
        return Telling(self.recorder, (name, request, target, f"{name}(2)"), ("", given), result)

    def duplicate(self, plain: Owner, target: str) -> Owner:
        """Tell of dup(2) of `target`, and of close(2) when the descriptor, `plain`, is closed."""
        fd = self.descriptor()
        self.call("fcntl", target, LEAST, request="F_DUPFD_CLOEXEC", result=fd).tell()

        def drop() -> None:
            plain.close()
            self.call("close", f"{target.rpartition(' ')[0]} {fd}").tell()

        return ModelDuplicate(drop)


def _tell_mapped(
    told: ModelRecording, target: str, mapping: ModelMapping, *, in_core: bool
) -> None:
    told.call("mmap", target, length_field(mapping.size), _MAP_FLAGS, result=mapping.hva).tell()
    if not in_core:
        where = range_fields("address", mapping.hva, mapping.size)
        told.call("madvise", "memory", *where, request="MADV_DONTDUMP").tell()


class RecordedModelSystem(ModelSystem):
    """A `ModelSystem` whose recorder is told, as `hosts.kvm.system.System` tells its own."""

    def __init__(self, profile: Profile = MAINLINE, *, recorder: Recorder) -> None:
        super().__init__(profile)
        self._recording = ModelRecording(recorder)
        self._is_open = True
        self._recording.call(
            "open", "/dev/kvm", request="O_RDWR|O_CLOEXEC", result=_SYSTEM_FD
        ).tell()

    def create_vm(self, vm_type: VmType = VmType.DEFAULT) -> ModelVm:
        """KVM_CREATE_VM."""
        argument = number_field("argument", int(vm_type), meaning=vm_type_name(int(vm_type)))
        fd, target = self._recording.descriptor(), f"KVM fd {_SYSTEM_FD}"
        with self._recording.ioctl("KVM_CREATE_VM", target, "4.2", ("", (argument,)), fd):
            self.require_type(vm_type)
            return RecordedModelVm(vm_type, self._profile, self._mapped, self._recording, fd)

    def map_anonymous(self, size: int, *, in_core: bool = False) -> ModelMapping:
        """memfd_create(2), ftruncate(2) and mmap(2)."""
        told, fd = self._recording, self._recording.descriptor()
        plain = super().map_anonymous(size, in_core=in_core)
        told.call("memfd_create", "pyvmm-guest", request="MFD_CLOEXEC", result=fd).tell()
        told.call("ftruncate", f"memfd fd {fd}", length_field(size)).tell()
        _tell_mapped(told, f"memfd fd {fd}", plain, in_core=in_core)

        def gone() -> None:
            told.call("close", f"memfd fd {fd}").tell()

        return RecordedMapping(plain.memory, gone, told)

    def close(self) -> None:
        """Tell of close(2)."""
        super().close()
        if self._is_open:
            self._is_open = False
            self._recording.call("close", f"KVM fd {_SYSTEM_FD}").tell()


class RecordedModelVm(ModelVm):
    """A `ModelVm` that tells."""

    def __init__(
        self,
        vm_type: VmType,
        profile: Profile,
        mapped: Mapped,
        recording: ModelRecording,
        fd: int,
    ) -> None:
        super().__init__(vm_type, profile, mapped)
        self._recording = recording
        self.target = f"VM fd {fd}"

    def create_guest_memfd(
        self, size: int, flags: GuestMemfdFlag = NO_GUEST_MEMFD_FLAGS
    ) -> ModelGuestMemfd:
        """KVM_CREATE_GUEST_MEMFD."""
        fd, fields = self._recording.descriptor(), guest_memfd_fields(size, int(flags))
        with self._recording.ioctl("KVM_CREATE_GUEST_MEMFD", self.target, "4.142", fields, fd):
            self.require_creation(size, flags)
            return RecordedGuestMemfd(
                size,
                flags,
                self,
                self._profile,
                self._mapped,
                self._recording,
                fd,
                private_vm=self._private,
            )

    def set_memslot(self, memslot: Memslot) -> None:
        """KVM_SET_USER_MEMORY_REGION, or its second form."""
        file = memslot.guest_memfd
        structure, fields = memslot_fields(
            memslot, file.fd if isinstance(file, RecordedGuestMemfd) and file.is_open else -1
        )
        second = structure.endswith("2")
        request = "KVM_SET_USER_MEMORY_REGION2" if second else "KVM_SET_USER_MEMORY_REGION"
        section = "4.140" if second else "4.35"
        with self._recording.ioctl(request, self.target, section, (structure, fields)):
            super().set_memslot(memslot)

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES."""
        fields = attributes_fields(gpa, size, int(attributes))
        with self._recording.ioctl("KVM_SET_MEMORY_ATTRIBUTES", self.target, "4.141", fields):
            super().set_memory_attributes(gpa, size, attributes)

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP."""
        with self._recording.ioctl("KVM_CREATE_IRQCHIP", self.target, "4.24"):
            super().create_irqchip()

    def create_vcpu(self, index: int) -> ModelVcpu:
        """KVM_CREATE_VCPU."""
        fd = self._recording.descriptor()
        argument = ("", (number_field("argument", index),))
        with self._recording.ioctl("KVM_CREATE_VCPU", self.target, "4.7", argument, fd):
            vcpu = super().create_vcpu(index)
            assert isinstance(vcpu, RecordedModelVcpu)
            vcpu.target = f"vCPU fd {fd}"
            return vcpu

    def _make_vcpu(self, index: int) -> ModelVcpu:
        return RecordedModelVcpu(index, self, self.release, self._recording)

    def duplicate(self) -> Owner:
        """dup(2)."""
        return self._recording.duplicate(super().duplicate(), self.target)

    def close(self) -> None:
        """Tell of close(2)."""
        was_open = self._open
        super().close()
        if was_open:
            self._recording.call("close", self.target).tell()


class RecordedGuestMemfd(ModelGuestMemfd):
    """A `ModelGuestMemfd` that tells."""

    def __init__(  # noqa: PLR0917 - those of the class that it stands for, and two
        self,
        size: int,
        flags: GuestMemfdFlag,
        vm: TakesTurns,
        profile: Profile,
        mapped: Mapped,
        recording: ModelRecording,
        fd: int,
        *,
        private_vm: bool,
    ) -> None:
        super().__init__(size, flags, vm, profile, mapped, private_vm=private_vm)
        self._recording = recording
        self.fd = fd

    def map(self, *, in_core: bool = False) -> ModelMapping:
        """mmap(2)."""
        target = f"guest_memfd fd {self.fd}"
        try:
            plain = super().map(in_core=in_core)
        except SystemCallError:
            with self._recording.call("mmap", target, length_field(self.size), _MAP_FLAGS):
                raise
        _tell_mapped(self._recording, target, plain, in_core=in_core)
        return RecordedMapping(plain.memory, self._drop, self._recording)

    def allocate(self, offset: int, size: int) -> None:
        """fallocate(2)."""
        with self._fallocate(offset, size, _KEEP_SIZE):
            super().allocate(offset, size)

    def punch_hole(self, offset: int, size: int) -> None:
        """fallocate(2) with PUNCH_HOLE."""
        with self._fallocate(offset, size, f"{_KEEP_SIZE}|FALLOC_FL_PUNCH_HOLE"):
            super().punch_hole(offset, size)

    def set_attributes(self, offset: int, size: int, attributes: MemoryAttribute) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES2."""
        fields = file_attributes_fields(offset, size, int(attributes))
        target, section = f"guest_memfd fd {self.fd}", "4.145, as posted"
        with self._recording.ioctl("KVM_SET_MEMORY_ATTRIBUTES2", target, section, fields):
            super().set_attributes(offset, size, attributes)

    def hold_mapped(self, offset: int) -> Owner:
        """vmsplice(2) of a mapping's page into a pipe."""
        with self._recording.call("vmsplice", "pipe", result=PAGE_SIZE):
            return super().hold_mapped(offset)

    def duplicate(self) -> Owner:
        """dup(2)."""
        return self._recording.duplicate(super().duplicate(), f"guest_memfd fd {self.fd}")

    def _fallocate(self, offset: int, size: int, request: str) -> Telling:
        given = range_fields("offset", offset, size)
        target = f"guest_memfd fd {self.fd}"
        return self._recording.call("fallocate", target, *given, request=request)

    def close(self) -> None:
        """Tell of close(2)."""
        was_open = self.is_open
        super().close()
        if was_open:
            self._recording.call("close", f"guest_memfd fd {self.fd}").tell()


class RecordedMapping(ModelMapping):
    """A `ModelMapping` that tells."""

    def __init__(
        self, memory: HostMemory, gone: Callable[[], None], recording: ModelRecording
    ) -> None:
        super().__init__(memory, gone)
        self._recording = recording

    def discard(self, offset: int, size: int) -> None:
        """madvise(2), MADV_REMOVE."""
        given = range_fields("address", self.hva + offset, size)
        with self._recording.call("madvise", "memory", *given, request="MADV_REMOVE"):
            super().discard(offset, size)

    def peek(self, offset: int, size: int) -> bytes:
        """process_vm_readv(2)."""
        with self._copying(own_memory.READ, offset, size):
            return super().peek(offset, size)

    def poke(self, offset: int, data: bytes) -> None:
        """process_vm_writev(2)."""
        with self._copying(own_memory.WRITE, offset, len(data)):
            super().poke(offset, data)

    def _copying(self, name: str, offset: int, size: int) -> Telling:
        given = range_fields("address", self.hva + offset, size)
        return self._recording.call(name, "memory", *given, result=size)

    def close(self) -> None:
        """munmap(2)."""
        hva, size = self.hva, self.size
        if hva:
            with self._recording.call("munmap", "memory", *range_fields("address", hva, size)):
                super().close()


class RecordedModelVcpu(ModelVcpu):
    """A `ModelVcpu` whose exits are told of; `target` is its descriptor, for those who watch."""

    def __init__(
        self,
        index: int,
        services: VcpuServices,
        gone: Callable[[], None],
        recording: ModelRecording,
    ) -> None:
        super().__init__(index, services, gone)
        self._recording = recording
        self.target = "vCPU"

    def run(self) -> Exit:
        """Run guest code, and tell of what ended that, before it is returned."""
        exit_ = super().run()
        self._recording.recorder.exit(self.index, exit_)
        return exit_

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        with self._recording.ioctl("KVM_SET_REGS", self.target, "4.12", regs_fields(regs)):
            super().set_regs(regs)

    def duplicate(self) -> Owner:
        """dup(2)."""
        return self._recording.duplicate(super().duplicate(), self.target)

    def close(self) -> None:
        """Tell of close(2)."""
        was_open = not self._closed
        super().close()
        if was_open:
            self._recording.call("close", self.target).tell()
