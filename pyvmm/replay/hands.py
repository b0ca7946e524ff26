# SPDX-License-Identifier: MIT
"""Single operations on real descriptors, in one process: what a step of a story comes to.

Each returns "ok", the name of the errno, or for a read the byte that was read.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.owner import Owner
from pyvmm.lifetime.questions import FILE_FLAGS, HOST_ADDRESS, MOVED_BY
from pyvmm.replay.guest import Guest
from pyvmm.rules.abi import PAGE_SIZE

OK = "ok"
Answer = int | str


@dataclass
class _HeldVm:
    vm: Vm
    copies: list[int] = field(default_factory=list)
    guest: Guest | None = None
    vcpus: int = 0


@dataclass
class _HeldFile:
    file: GuestMemfd
    copies: list[int] = field(default_factory=list)


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

    def __init__(self, system: System, pages: int) -> None:
        """`pages` of each file."""
        self._system = system
        self._size = pages * PAGE_SIZE
        self._vms: dict[int, _HeldVm] = {}
        self._files: dict[int, _HeldFile] = {}
        self._mappings: dict[int, Mapping] = {}
        self._busy: list[int] = []
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of everything."""
        self.reset()
        null, self._null = self._null, -1
        if null >= 0:
            os.close(null)

    def reset(self) -> None:
        """Let go of everything that a story left, in the order of a process's exit."""
        self.exit()
        for fd in self._busy:
            os.close(fd)
        self._busy.clear()

    # VMs

    def create_vm(self, v: int) -> str:
        """A VM; the name that the kernel gives it."""
        vm = self._system.create_vm()
        self._vms[v] = _HeldVm(vm)
        return f"{threading.get_native_id()}-{vm.fd}"

    def dup_vm(self, v: int) -> str:
        """A second descriptor."""
        held = self._vms[v]
        held.copies.append(os.dup(held.vm.fd))
        return OK

    def close_vm(self, v: int) -> str:
        """Close the oldest descriptor; with the last one the vCPU goes, which would hold the VM."""
        held = self._vms[v]
        oldest = held.vm.fd
        if held.copies:
            held.vm.fd = held.copies.pop()
            self._let_go(oldest)
            return OK
        if held.guest is not None:
            held.guest.close()
        held.vm.fd = -1
        held.vm.close()
        self._let_go(oldest)
        del self._vms[v]
        return OK

    def _let_go(self, fd: int) -> None:
        os.dup2(self._null, fd, inheritable=False)
        self._busy.append(fd)

    # Files

    def create_file(self, v: int, f: int) -> str:
        """A guest_memfd of the VM."""
        vm = self._vms[v].vm

        def do() -> None:
            file = vm.create_guest_memfd(self._size, GuestMemfdFlag(FILE_FLAGS))
            self._files[f] = _HeldFile(file)

        return _attempt(do)

    def dup_file(self, f: int) -> str:
        """A second descriptor."""
        held = self._files[f]
        held.copies.append(os.dup(held.file.fd))
        return OK

    def close_file(self, f: int) -> str:
        """Close the oldest descriptor."""
        held = self._files[f]
        if held.copies:
            os.close(held.file.fd)
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
        """The first byte of a page, through the mapping."""
        with self._mappings[f].view() as view:
            return view[page * PAGE_SIZE]

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
        return guest if isinstance(guest, str) else guest.read(s * PAGE_SIZE)

    def guest_write(self, v: int, s: int, value: int) -> str:
        """Let the guest write a byte through a slot."""
        guest = self._guest(v)
        written = guest if isinstance(guest, str) else guest.write(s * PAGE_SIZE, value)
        return written if isinstance(written, str) else OK

    def _guest(self, v: int) -> Guest | str:
        held = self._vms[v]
        if held.guest is None:
            try:
                held.guest = Guest(held.vm, held.vcpus)
            except SystemCallError as error:
                if error.errno != errno.EIO:
                    raise
                return "EIO"  # another process made the VM
            held.vcpus += 1
        return held.guest

    # Processes

    def before_fork(self) -> str:
        """Let go of vCPUs, which a child would inherit and so hold its VM."""
        for held in self._vms.values():
            if held.guest is not None:
                held.guest.close()
                held.guest = None
        return OK

    def exit(self) -> str:
        """Let go of everything in the order of a process's exit: mappings first."""
        for f in list(self._mappings):
            self.unmap(f)
        for f in list(self._files):
            while f in self._files:
                self.close_file(f)
        for v in list(self._vms):
            while v in self._vms:
                self.close_vm(v)
        return OK
