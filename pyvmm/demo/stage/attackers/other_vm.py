# SPDX-License-Identifier: MIT
"""Road to the page through another VM, to which the guest_memfd is to be bound."""

from __future__ import annotations

import errno

from pyvmm.demo.stage.attackers.file_calls import NO_FILE
from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Seen
from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag, System, Vm
from pyvmm.replay.guest import SIZE as PROGRAM_SIZE
from pyvmm.replay.guest import Access, Guest, put_program
from pyvmm.rules.abi import PAGE_SIZE


async def by_other_vm(target: Target, gpa: int) -> Seen:
    """A VM of the attacker's own, with a slot over the page's place in the file; its guest reads.

    No kernel is known to let it come to that: the slot is refused.
    """
    bound = target.file(gpa)
    if bound is None:
        return closed(Road.OTHER_VM, gpa, NO_FILE)
    file, offset = bound
    system = target.inside.assembly.system
    flags = MemslotFlag.GUEST_MEMFD
    page = offset // PAGE_SIZE * PAGE_SIZE
    with (
        system.map_anonymous(PAGE_SIZE) as shared,
        system.create_vm(VmType.SW_PROTECTED) as other,
    ):
        try:
            other.set_memslot(Memslot(0, 0, PAGE_SIZE, shared.hva, flags, file, page))
        except SystemCallError as error:
            note = f"its slot was refused: {error.cause}"
            if error.errno == errno.EINVAL:
                note = "the file belongs to the VM that it was created for"
            return closed(Road.OTHER_VM, gpa, note, error.errno)
        try:
            other.set_memory_attributes(0, PAGE_SIZE, MemoryAttribute.PRIVATE)
            read = _read(system, other, range(offset - page, offset - page + target.size(gpa)))
        except SystemCallError as error:
            note = f"the other VM has the page, and its guest could not be run: {error.cause}"
            return closed(Road.OTHER_VM, gpa, note)
    return _seen(target, gpa, read)


def _read(system: System, vm: Vm, gpas: range) -> list[Access]:
    """Have a guest of the VM read bytes."""
    with system.map_anonymous(PROGRAM_SIZE) as program:
        put_program(program)
        with Guest(vm, 0, program) as guest:
            return [guest.read(gpa) for gpa in gpas]


def _seen(target: Target, gpa: int, read: list[Access]) -> Seen:
    """Tell of the bytes that the other VM's guest has read."""
    data = bytes(one.value for one in read if one.value is not None)
    if len(data) == len(read):
        note = "the other VM has the page, and its guest has read it"
        return target.got(Road.OTHER_VM, gpa, data, note)
    why = next(one.errno_name or str(one.exit) for one in read if one.value is None)
    return closed(Road.OTHER_VM, gpa, f"the other VM has the page; its guest's read ends: {why}")
