# SPDX-License-Identifier: MIT
"""Road to the page through another VM, to which the guest_memfd is to be bound."""

from __future__ import annotations

from pyvmm.demo.stage.attackers.file_calls import NO_FILE
from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Content, Seen
from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.rules.abi import PAGE_SIZE


async def by_other_vm(target: Target, gpa: int) -> Seen:
    """A VM of the attacker's own, with a slot over the page's place in the file."""
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
            note = "the file belongs to the VM that it was created for"
            return closed(Road.OTHER_VM, gpa, note, error.errno)
        note = "the other VM has the page: what its guest reads, its monitor can be told"
        return Seen(Road.OTHER_VM, gpa, Content.OTHER, note=note)
