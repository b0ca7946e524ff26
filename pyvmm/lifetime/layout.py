# SPDX-License-Identifier: MIT
"""A state of a universe as a string of bytes, and where what is in it.

Indices are stored one higher, so that 0 is "none". Memory belongs to a *virtual machine* (an ASID,
an HKID), which one or several VMs (``struct kvm``) share: a migration's helper or target is made as
a further VM of the same one. A virtual machine ends with its last VM. A page's tag is 0 for zeroes,
``1 + m`` for what was written under virtual machine `m`, and `Layout.ghost` for what was written
under one that has ended: a number that is used again is not the one that had it before.

::

    VM      alive, references, virtual machine, descriptors of each process
    file    alive, references, VM pointer, inode, descriptors.., mappings.., binding of each page
    inode   files, owner (a virtual machine), tag of each page
    slot    VM, file, page, guest mapping: 0, or 1 + inode * pages + page

Behind these an object has the cells of the universe's features: `EXTRAS` lists them. A session of
preservation has records of VMs and of files, at the end.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from pyvmm.lifetime.universe import Feature, Universe

State = bytes
Cells = list[int]
"""A state while it is being changed."""

ALIVE, REFS = 0, 1
VM_MACHINE = 2
VM_HANDLES = 3
FILE_VM, FILE_INODE = 2, 3
FILE_HANDLES = 4
INODE_FILES, INODE_OWNER = 0, 1
INODE_TAGS = 2
SLOT_VM, SLOT_FILE, SLOT_PAGE, SLOT_MAPPING = 0, 1, 2, 3
SLOT_CELLS = 4


class Names(enum.Enum):
    """Things that the number in a cell can name, one higher: how a renaming changes it."""

    NOTHING = "a number that stays"
    VM = "a VM"
    FILE = "a file"
    INODE = "an inode"
    MACHINE = "a virtual machine, or the ghost"
    VM_RECORD = "a session's record of a VM"


class Each(enum.Enum):
    """Cells of an extra: one, or one for each of something."""

    ONE = "one"
    PER_PAGE = "one for each page of the file"
    PER_PROCESS = "one for each process"


class Of(enum.Enum):
    """Objects that have extras."""

    VM = "VM"
    FILE = "file"
    INODE = "inode"
    VM_RECORD = "record of a VM"
    FILE_RECORD = "record of a file"


class Extra(NamedTuple):
    """Cells of an object that are there if the universe has the feature.

    `name` is the field of `Layout` that has their offset in the object; -1 where they are not.
    """

    of: Of
    name: str
    needs: Feature
    names: Names = Names.NOTHING
    each: Each = Each.ONE


EXTRAS = (
    # vCPU descriptors; at once behind the VM's descriptors, so that one slice counts both
    Extra(Of.VM, "vcpus", Feature.VCPUS, each=Each.PER_PROCESS),
    # 1: the VM has private memory
    Extra(Of.VM, "vm_private", Feature.TYPES),
    # the VM that this one holds, as a helper of its virtual machine
    Extra(Of.VM, "vm_source", Feature.LINKS, Names.VM),
    # 1: the VM has given its virtual machine away, and can only be closed
    Extra(Of.VM, "vm_dead", Feature.MOVES),
    # 1: a session has a record of the VM
    Extra(Of.VM, "vm_preserved", Feature.UPDATES),
    # 1: a session has a record of the file, and a reference on it
    Extra(Of.FILE, "file_preserved", Feature.UPDATES),
    # 1: created without flags: the host never sees its memory
    Extra(Of.INODE, "inode_private", Feature.TYPES),
    # 1: the page has a memory error
    Extra(Of.INODE, "page_errors", Feature.ERRORS, each=Each.PER_PAGE),
    # 1: the page was written before its virtual machine came to the VM that it has now
    Extra(Of.INODE, "inherited", Feature.SUCCESSORS, each=Each.PER_PAGE),
    # 1: no page can come to it or go
    Extra(Of.INODE, "frozen", Feature.UPDATES),
    # 1: the page is there; what is not written is zeroes either way
    Extra(Of.INODE, "allocated", Feature.UPDATES, each=Each.PER_PAGE),
    Extra(Of.VM_RECORD, "record_state", Feature.UPDATES),
    Extra(Of.VM_RECORD, "record_machine", Feature.UPDATES, Names.MACHINE),
    Extra(Of.VM_RECORD, "record_vm", Feature.UPDATES, Names.VM),
    Extra(Of.FILE_RECORD, "file_record_state", Feature.UPDATES),
    Extra(Of.FILE_RECORD, "record_of", Feature.UPDATES, Names.VM_RECORD),
    Extra(Of.FILE_RECORD, "record_file", Feature.UPDATES, Names.FILE),
    Extra(Of.FILE_RECORD, "record_inode", Feature.UPDATES, Names.INODE),
)
"""All of them, in the order of their cells."""


@dataclass(frozen=True)
class Layout:
    """Offsets in a state at which the objects of `universe` begin.

    `mappings` and `bindings` are offsets in a file, and the fields that `EXTRAS` names those in
    their objects. `vm_holders` is the end of a VM's descriptors and its vCPUs'. The ``.._cells``
    are the sizes of objects.
    """

    universe: Universe
    vm: tuple[int, ...] = field(init=False)
    file: tuple[int, ...] = field(init=False)
    inode: tuple[int, ...] = field(init=False)
    slot: tuple[int, ...] = field(init=False)
    vm_record: tuple[int, ...] = field(init=False)
    file_record: tuple[int, ...] = field(init=False)
    mappings: int = field(init=False)
    bindings: int = field(init=False)
    vm_holders: int = field(init=False)
    vm_cells: int = field(init=False)
    file_cells: int = field(init=False)
    inode_cells: int = field(init=False)
    machines: int = field(init=False)
    ghost: int = field(init=False)
    size: int = field(init=False)
    vcpus: int = field(init=False, default=-1)
    vm_private: int = field(init=False, default=-1)
    vm_source: int = field(init=False, default=-1)
    vm_dead: int = field(init=False, default=-1)
    vm_preserved: int = field(init=False, default=-1)
    file_preserved: int = field(init=False, default=-1)
    inode_private: int = field(init=False, default=-1)
    page_errors: int = field(init=False, default=-1)
    inherited: int = field(init=False, default=-1)
    frozen: int = field(init=False, default=-1)
    allocated: int = field(init=False, default=-1)
    record_state: int = field(init=False, default=-1)
    record_machine: int = field(init=False, default=-1)
    record_vm: int = field(init=False, default=-1)
    file_record_state: int = field(init=False, default=-1)
    record_of: int = field(init=False, default=-1)
    record_file: int = field(init=False, default=-1)
    record_inode: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        u = self.universe
        records = u.has(Feature.UPDATES)
        self._set("mappings", FILE_HANDLES + u.processes)
        self._set("bindings", FILE_HANDLES + 2 * u.processes)
        self._set("vm_holders", VM_HANDLES + u.processes * (2 if u.vcpus else 1))
        self._set("vm_cells", self._place(Of.VM, VM_HANDLES + u.processes))
        self._set("file_cells", self._place(Of.FILE, self.bindings + u.pages))
        self._set("inode_cells", self._place(Of.INODE, INODE_TAGS + u.pages))
        self._set("machines", u.vms * (2 if records else 1))  # a record keeps one, too
        self._set("ghost", 1 + self.machines)
        at = 0
        for name, count, cells in (
            ("vm", u.vms, self.vm_cells),
            ("file", u.files, self.file_cells),
            ("inode", u.files, self.inode_cells),
            ("slot", u.slots, SLOT_CELLS),
            ("vm_record", u.vms if records else 0, self._place(Of.VM_RECORD, 0)),
            ("file_record", u.files if records else 0, self._place(Of.FILE_RECORD, 0)),
        ):
            self._set(name, tuple(at + i * cells for i in range(count)))
            at += count * cells
        self._set("size", at)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _place(self, of: Of, end: int) -> int:
        """Put the extras of an object behind `end`, its other cells; return its size."""
        for extra in self.extras(of):
            self._set(extra.name, end)
            end += self.times(extra)
        return end

    def extras(self, of: Of) -> tuple[Extra, ...]:
        """The extras that objects of a kind have in this universe."""
        return tuple(each for each in EXTRAS if each.of is of and self.universe.has(each.needs))

    def times(self, extra: Extra) -> int:
        """The number of cells of an extra."""
        if extra.each is Each.PER_PAGE:
            return self.universe.pages
        return self.universe.processes if extra.each is Each.PER_PROCESS else 1

    @property
    def initial(self) -> State:
        """Nothing exists."""
        return bytes(self.size)
