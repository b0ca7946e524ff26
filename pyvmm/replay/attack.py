# SPDX-License-Identifier: MIT
"""Attacks on what a VM leaves in its guest_memfd, for real: two VMs, or a VM and its host.

Both begin where memory that only the VM may read is written by its guest. The first closes that VM
and has another one bind the file; the second has the host map a file whose flags the VM's type
cannot have. Linux refuses both; the mail's design refuses each with the right remedy.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.unowned_files import create_unowned, has_unowned_files
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.lifetime.questions import HOST_ADDRESS
from pyvmm.replay.guest import Access, Guest
from pyvmm.replay.hands import guest_program
from pyvmm.replay.host import kinds_of
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE, MemoryKind
from pyvmm.rules.abi import PAGE_SIZE

SECRET = b"only for my own guest"
"""Bytes that the first VM's guest writes."""


class Attack(enum.Enum):
    """An attack, and who reads at its end."""

    REBINDING = "another VM binds the file"
    LOOKING_IN = "the host maps the file"

    @property
    def key(self) -> str:
        """Its name in JSON."""
        return self.name.lower().replace("_", "-")


@dataclass
class Attempt:
    """One attack, step by step: what was done, and what the kernel said.

    `read` is what was read at the end, as bytes; None where it did not come to that. `lacks` says
    the reason why it was not even tried, "" where it was.
    """

    attack: Attack
    steps: list[tuple[str, str]] = field(default_factory=list)
    read: bytes | None = None
    lacks: str = ""

    @property
    def reached(self) -> bool:
        """True where what the guest wrote was read by whom it is not for."""
        return self.read == SECRET

    @property
    def verdict(self) -> str:
        """The end of it, in a few words."""
        if self.lacks:
            return f"not tried: {self.lacks}"
        if self.reached:
            return "REACHED: what the guest wrote was read"
        if self.read is not None:
            return f"stopped: it is gone ({_told(self.read)})"
        what, answer = self.steps[-1]
        return f"stopped: {what}: {answer}"

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "attack": self.attack.key,
            "reached": self.reached,
            "verdict": self.verdict,
            "steps": [{"step": what, "answer": answer} for what, answer in self.steps],
        }

    def did(self, what: str, answer: str = "ok") -> None:
        """Note a step."""
        self.steps.append((what, answer))


def attempt(system: System, attack: Attack, *, most_vms: int = 1) -> Attempt:
    """Do it; `most_vms` is how many VMs after each other try to bind.

    Memory is private where this KVM has VMs with such. Raises `HostLacksError` where it has no
    guest_memfd that could be used, and `SystemCallError` for what fails beside the attack.
    """
    kinds = kinds_of(system)
    done = Attempt(attack)
    with ExitStack() as stack:
        if attack is Attack.REBINDING:
            _rebind(system, done, stack, PRIVATE if PRIVATE in kinds else MAPPABLE, most_vms)
        elif {PRIVATE, MAPPABLE} <= set(kinds):
            _look_in(system, done, stack)
        else:
            done.lacks = (
                "this KVM has not both VMs with private memory and files that can be mapped"
            )
    return done


def _rebind(
    system: System, done: Attempt, stack: ExitStack, kind: MemoryKind, most_vms: int
) -> None:
    with _vm(system, kind) as first:
        file = stack.enter_context(_file(system, first, kind.file_flags, done))
        _bind(first, file)
        done.did("the first VM binds the file")
        _write(first)
        if kind.is_private:
            done.did("its guest writes the secret, to private memory")
            done.did("the host maps the file", _answer_of_mapping(file))
        else:
            done.did("its guest writes the secret")
    done.did("the first VM is closed")
    for number in range(1, most_vms + 1):
        if number > 1:
            done.steps.pop()  # of those refused, the last one is told of
        with _vm(system, kind) as other:
            what = "another VM binds the file"
            if number > 1:
                what += f", the last of {number:,} that try"
            try:
                _bind(other, file)
            except SystemCallError as error:
                done.did(what, errno.errorcode.get(error.errno, str(error.errno)))
                continue
            done.did(what)
            _let_read(other, done)
            return


def _look_in(system: System, done: Attempt, stack: ExitStack) -> None:
    vm = stack.enter_context(_vm(system, PRIVATE))
    try:
        file = stack.enter_context(_file(system, vm, MAPPABLE.file_flags, done))
        _bind(vm, file)
    except SystemCallError as error:
        refused = errno.errorcode.get(error.errno, str(error.errno))
        done.did("a VM with private memory gets a file that the host can map", refused)
        return
    done.did("a VM with private memory binds a file that the host can map")
    _write(vm)
    done.did("its guest writes the secret, to private memory")
    with file.map() as mapping, mapping.view() as view:
        done.read = _copied(view[: len(SECRET)])
    done.did("the host reads through its mapping", _told(done.read))


@contextmanager
def _vm(system: System, kind: MemoryKind) -> Iterator[Vm]:
    """A VM, whose memory is private where it can be; with its end its last descriptor is closed."""
    with system.create_vm(kind.vm_type) as vm:
        if kind.is_private:
            vm.set_memory_attributes(0, PAGE_SIZE, MemoryAttribute.PRIVATE)
        yield vm


def _file(system: System, vm: Vm, flags: GuestMemfdFlag, done: Attempt) -> GuestMemfd:
    """A file of no VM where the kernel has that; otherwise the VM's."""
    if has_unowned_files(system):
        file = create_unowned(system, PAGE_SIZE, flags)
        done.did("a guest_memfd is created for no VM")
    else:
        file = vm.create_guest_memfd(PAGE_SIZE, flags)
        done.did("a guest_memfd is created for the first VM")
    return file


def _bind(vm: Vm, file: GuestMemfd) -> None:
    vm.set_memslot(Memslot(0, 0, PAGE_SIZE, HOST_ADDRESS, guest_memfd=file))


def _write(vm: Vm) -> None:
    with Guest(vm, 0, guest_program()) as guest:
        for gpa, byte in enumerate(SECRET):
            access = guest.write(gpa, byte)
            if access.value is None:
                attempt = f"have a guest write a secret at GPA {gpa:#x}"
                raise InternalError(attempt, f"it cannot: {_failed(access)}")


def _let_read(vm: Vm, done: Attempt) -> None:
    """Have a VM's guest read where the secret was; an access that fails is told as a step."""
    what, found = "its guest reads", bytearray()
    with Guest(vm, 0, guest_program()) as guest:
        for gpa in range(len(SECRET)):
            access = guest.read(gpa)
            if access.value is None:
                done.did(what, _failed(access))
                return
            found.append(access.value)
    done.read = bytes(found)
    done.did(what, _told(done.read))


def _failed(access: Access) -> str:
    return access.errno_name or str(access.exit)


def _answer_of_mapping(file: GuestMemfd) -> str:
    try:
        file.map().close()
    except SystemCallError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "ok"


def _copied(view: memoryview) -> bytes | None:
    """The bytes, read by the kernel for us; None where reading them ourselves would be SIGBUS."""
    fd = os.memfd_create("copied")
    try:
        os.pwrite(fd, view, 0)
        return os.pread(fd, len(view), 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return None
    finally:
        os.close(fd)


def _told(read: bytes | None) -> str:
    if read is None:
        return "SIGBUS"
    return "zeroes" if not any(read) else repr(read.decode("ascii", "replace"))
