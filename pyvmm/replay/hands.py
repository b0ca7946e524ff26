# SPDX-License-Identifier: MIT
"""Single operations on real descriptors, in one process: what a step of a story comes to.

Each returns "ok", the name of the errno, or for a read the byte that was read.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.call_fields import LEAST
from pyvmm.hosts.call_record import number_field
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping, map_anonymous
from pyvmm.hosts.kvm.recording import tell
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.unowned_files import create_unowned
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.owner import Owner
from pyvmm.lifetime.questions import HOST_ADDRESS, MOVED_BY
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.replay.guest import SIZE, Access, Guest, put_program
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE, MemoryKind
from pyvmm.replay.page_errors import PageErrors
from pyvmm.rules.abi import PAGE_SIZE

OK = "ok"
SIGBUS = "SIGBUS"
Answer = int | str
_STORY = 1 << 20
"""End of the GPAs of a story's slots."""
MOST_ALLOCATIONS = 200
"""Allocations of a binding: more than there are."""


@dataclass
class _HeldVm:
    """A VM's descriptors, and its vCPUs: those of the story, or else one of ours."""

    vm: Vm
    copies: list[int] = field(default_factory=list)
    vcpus: list[Guest] = field(default_factory=list)
    made: int = 0
    """vCPUs that there have ever been: KVM does not use an id again."""


@dataclass
class _HeldFile:
    file: GuestMemfd
    copies: list[int] = field(default_factory=list)


@cache
def guest_program() -> Mapping:
    """The program of guests that touch memory: one copy for every VM of this process."""
    memory = map_anonymous(SIZE)
    put_program(memory)
    return memory


def _answer(access: Access) -> Answer:
    """The byte, or the errno's name. Raises `InternalError` for MMIO: a story has slots."""
    if access.value is not None:
        return access.value
    if not access.errno:
        raise InternalError("let a guest touch memory", f"it ended with {access.exit}")
    return access.errno_name


def _attempt(do: Callable[[], object]) -> str:
    try:
        do()
    except SystemCallError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return OK


class Hands(Owner):
    """Objects that one process of a story holds.

    A number that a VM's descriptor had is kept busy until `reset`: the kernel names a VM after the
    number, and has no second folder of the same name.
    """

    def __init__(
        self,
        system: System,
        pages: int,
        kind: MemoryKind = MAPPABLE,
        *,
        vcpus: bool = False,
        allocations: FailingAllocations | None = None,
        page_errors: PageErrors | None = None,
    ) -> None:
        """`pages` of each file; `vcpus`: the story creates and closes vCPUs itself.

        `allocations` and `page_errors` are for `bind_fails` and `page_error`.
        """
        self._system = system
        self._kind = kind
        self._story_has_vcpus = vcpus
        self._allocations = allocations
        self._page_errors = page_errors
        self._size = pages * PAGE_SIZE
        self._vms: dict[int, _HeldVm] = {}
        self._files: dict[int, _HeldFile] = {}
        self._mappings: dict[int, Mapping] = {}
        self._busy: list[int] = []
        self._recorder = system.recorder
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._read = os.memfd_create("read")
        except OSError:
            os.close(self._null)
            raise

    def close(self) -> None:
        """Let go of everything."""
        self.reset()
        if self._null >= 0:
            os.close(self._null)
            os.close(self._read)
        self._null = self._read = -1

    def reset(self) -> None:
        """Let go of everything that a story left, in the order of a process's exit."""
        self.exit()
        for fd in self._busy:
            os.close(fd)
        self._busy.clear()

    def descriptors(self) -> list[tuple[str, int]]:
        """The descriptors of VMs and files held, by the names that stories have for them."""
        found = []
        for v, vm in self._vms.items():
            found += [(f"vm{v}", fd) for fd in (vm.vm.fd, *vm.copies)]
        for f, file in self._files.items():
            found += [(f"file{f}", fd) for fd in (file.file.fd, *file.copies)]
        return [(name, fd) for name, fd in found if fd >= 0]

    def mapped_at(self) -> list[tuple[str, int]]:
        """The files that are mapped, and the host virtual address of each."""
        return [(f"file{f}", mapping.hva) for f, mapping in self._mappings.items()]

    def _dup(self, kind: str, fd: int) -> int:
        copy = os.dup(fd)
        tell(self._recorder, "fcntl", f"{kind} fd {fd}", copy, LEAST, request="F_DUPFD_CLOEXEC")
        return copy

    # VMs

    def create_vm(self, v: int, private: int = 0) -> str:
        """A VM, of the story's kind or with private memory; the name that the kernel gives it."""
        kind = PRIVATE if private else self._kind
        vm = self._system.create_vm(kind.vm_type)
        self._vms[v] = _HeldVm(vm)
        if kind.is_private:
            vm.set_memory_attributes(0, _STORY, MemoryAttribute.PRIVATE)
        return f"{threading.get_native_id()}-{vm.fd}"

    def dup_vm(self, v: int) -> str:
        """A second descriptor."""
        held = self._vms[v]
        held.copies.append(self._dup(held.vm.WHAT, held.vm.fd))
        return OK

    def close_vm(self, v: int) -> str:
        """Close the oldest descriptor; a vCPU of ours goes with the last: it would hold the VM."""
        held = self._vms[v]
        oldest = held.vm.fd
        self._let_go(oldest)
        if held.copies:
            held.vm.fd = held.copies.pop()
            return OK
        held.vm.fd = -1
        if not self._story_has_vcpus:
            self._close_vcpus(held)
        self._forget_if_closed(v)
        return OK

    def create_vcpu(self, v: int) -> str:
        """A vCPU, with a descriptor and a mapping of its own."""
        made = self._new_vcpu(self._vms[v])
        return made if isinstance(made, str) else OK

    def close_vcpu(self, v: int) -> str:
        """Close the oldest vCPU's descriptor."""
        self._vms[v].vcpus.pop(0).close()
        self._forget_if_closed(v)
        return OK

    def _forget_if_closed(self, v: int) -> None:
        held = self._vms[v]
        if held.vm.fd < 0 and not held.vcpus:
            held.vm.close()
            del self._vms[v]

    def _close_vcpus(self, held: _HeldVm) -> None:
        while held.vcpus:
            held.vcpus.pop().close()

    def _let_go(self, fd: int) -> None:
        os.dup2(self._null, fd, inheritable=False)
        self._busy.append(fd)
        if self._recorder is None:
            return
        old = number_field("oldfd", self._null, 4, os.devnull)
        new = number_field("newfd", fd, 4, "is closed by this, and its number stays in use")
        flags = number_field("flags", os.O_CLOEXEC, 4, "O_CLOEXEC")
        tell(self._recorder, "dup3", f"{Vm.WHAT} fd {fd}", fd, old, new, flags)

    # Files

    def create_file(self, v: int, f: int, private: int = 0) -> str:
        """A guest_memfd of the VM, of the story's kind or for private memory."""
        vm = self._vms[v].vm
        kind = PRIVATE if private else self._kind

        def do() -> None:
            file = vm.create_guest_memfd(self._size, kind.file_flags)
            self._files[f] = _HeldFile(file)

        return _attempt(do)

    def create_unowned(self, _v: int, f: int, private: int = 0) -> str:
        """A guest_memfd of no VM, of the story's kind or for private memory."""
        flags = (PRIVATE if private else self._kind).file_flags

        def do() -> None:
            self._files[f] = _HeldFile(create_unowned(self._system, self._size, flags))

        return _attempt(do)

    def dup_file(self, f: int) -> str:
        """A second descriptor."""
        held = self._files[f]
        held.copies.append(self._dup(held.file.WHAT, held.file.fd))
        return OK

    def close_file(self, f: int) -> str:
        """Close the oldest descriptor."""
        held = self._files[f]
        if held.copies:
            os.close(held.file.fd)
            tell(self._recorder, "close", f"{held.file.WHAT} fd {held.file.fd}", 0)
            held.file.fd = held.copies.pop()
        else:
            held.file.close()
            del self._files[f]
        return OK

    def map(self, f: int) -> str:
        """Map all of it."""

        def do() -> None:
            self._mappings[f] = self._files[f].file.map()

        return _attempt(do)

    def unmap(self, f: int) -> str:
        """Unmap it."""
        self._mappings.pop(f).close()
        return OK

    def punch(self, f: int, page: int) -> str:
        """Punch a page out."""
        file = self._files[f].file
        return _attempt(lambda: file.punch_hole(page * PAGE_SIZE, PAGE_SIZE))

    def host_read(self, f: int, page: int) -> Answer:
        """The first byte of a page, through the mapping; "SIGBUS" where that would be raised.

        The kernel reads it for us: what is a signal to a program is EFAULT to a system call.
        """
        with self._mappings[f].view() as view:
            try:
                os.pwrite(self._read, view[page * PAGE_SIZE :][:1], 0)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                return SIGBUS
        return os.pread(self._read, 1, 0)[0]

    def page_error(self, f: int, page: int) -> str:
        """Have an error on a page, by way of a mapping."""
        assert self._page_errors is not None
        with ExitStack() as stack:
            mapping = self._mappings.get(f)
            if mapping is not None:
                self.host_read(f, page)  # so that it has the page, which the error is to take away
            else:
                mapping = stack.enter_context(self._files[f].file.map())
            return self._page_errors.poison(mapping, page * PAGE_SIZE)

    # Slots

    def bind(self, v: int, s: int, f: int, page: int) -> str:
        """A slot of one page, at the GPA of its number."""
        slot = Memslot(
            s,
            s * PAGE_SIZE,
            PAGE_SIZE,
            HOST_ADDRESS,
            guest_memfd=self._files[f].file,
            guest_memfd_offset=page * PAGE_SIZE,
        )
        return _attempt(lambda: self._vms[v].vm.set_memslot(slot))

    def bind_fails(self, v: int, s: int, f: int, page: int) -> str:
        """Bind without memory for it: once for each allocation that the kernel makes on the way.

        The binding for which there is enough in the end is undone.
        """
        assert self._allocations is not None
        for passing in range(MOST_ALLOCATIONS):
            with self._allocations.after(passing) as countdown:
                answer = self.bind(v, s, f, page)
            if not countdown.reached:
                undone = self.unbind(v, s) if answer == OK else answer
                return "ENOMEM" if undone == OK and passing else undone
            if answer != "ENOMEM":
                return answer
        raise InternalError(
            "have a binding fail", f"it allocates more than {MOST_ALLOCATIONS} times"
        )

    def unbind(self, v: int, s: int) -> str:
        """Delete a slot."""
        slot = Memslot(s, s * PAGE_SIZE, 0, HOST_ADDRESS)
        return _attempt(lambda: self._vms[v].vm.set_memslot(slot))

    def move(self, v: int, s: int) -> str:
        """Ask for another GPA."""
        gpa = s * PAGE_SIZE + MOVED_BY
        slot = Memslot(s, gpa, PAGE_SIZE, HOST_ADDRESS, MemslotFlag.GUEST_MEMFD)
        return _attempt(lambda: self._vms[v].vm.set_memslot(slot))

    def guest_read(self, v: int, s: int) -> Answer:
        """Read through a slot as the guest."""
        guest = self._guest(v)
        return guest if isinstance(guest, str) else _answer(guest.read(s * PAGE_SIZE))

    def guest_write(self, v: int, s: int, value: int) -> str:
        """Let the guest write a byte through a slot."""
        guest = self._guest(v)
        if isinstance(guest, str):
            return guest
        written = _answer(guest.write(s * PAGE_SIZE, value))
        return written if isinstance(written, str) else OK

    def _guest(self, v: int) -> Guest | str:
        held = self._vms[v]
        if not held.vcpus and not self._story_has_vcpus:
            return self._new_vcpu(held)
        return held.vcpus[0]

    def _new_vcpu(self, held: _HeldVm) -> Guest | str:
        try:
            guest = Guest(held.vm, held.made, guest_program())
        except SystemCallError as error:
            if error.errno != errno.EIO:
                raise
            return "EIO"  # another process made the VM
        held.made += 1
        held.vcpus.append(guest)
        return guest

    # Processes

    def before_fork(self) -> str:
        """Let go of vCPUs of ours, which a child would inherit and so hold its VM."""
        if not self._story_has_vcpus:
            for held in self._vms.values():
                self._close_vcpus(held)
        return OK

    def exit(self) -> str:
        """Let go of everything in the order of a process's exit: mappings first."""
        for f in list(self._mappings):
            self.unmap(f)
        for f in list(self._files):
            while f in self._files:
                self.close_file(f)
        for v, held in list(self._vms.items()):
            while held.vm.fd >= 0:
                self.close_vm(v)
            while held.vcpus:
                self.close_vcpu(v)
        return OK
