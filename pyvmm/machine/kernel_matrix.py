# SPDX-License-Identifier: MIT
"""Matrix of what a host does with guest_memfds: VM type x creation flags x what is tried on it.

Nothing of it is asked for: every cell is an attempt on a VM and a file of their own, which are gone
afterwards, with the errno of its refusal (api.rst 4.140 to 4.142).
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import (
    NO_MEMSLOT_FLAGS,
    GuestMapping,
    GuestMemfd,
    Memslot,
    MemslotFlag,
    System,
    Vm,
)
from pyvmm.rules.abi import PAGE_SIZE

_FLAG_BITS = 64
"""Bits of ``kvm_create_guest_memfd.flags``."""
_GPA = 16 * PAGE_SIZE
_ONLY = 0
"""Number of the one memslot of a VM that things are tried on."""
Cell = int | None
"""Errno of an attempt, 0 where it succeeded; None where there was nothing to try it on."""


class Attempt(enum.Enum):
    """Attempts with a file of one kind; the value is the column's name."""

    CREATE = "create"
    MAP = "mmap"
    TOUCH = "touch"
    BIND = "bind"
    BIND_READONLY = "bind read-only"
    BIND_DIRTY_LOG = "bind, dirty log"
    PRIVATE_BY_VM = "private by VM"
    PRIVATE_BY_FILE = "private by file"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One kind of file: the attempts on those that VMs of a type make with `flags`.

    `cells` has one of each. TOUCH is by the mapping: EFAULT is where a bare touch is SIGBUS.
    PRIVATE_BY_VM is KVM_SET_MEMORY_ATTRIBUTES where the file is bound, PRIVATE_BY_FILE the file's
    own KVM_SET_MEMORY_ATTRIBUTES2.
    """

    vm_type: VmType
    flags: GuestMemfdFlag
    cells: dict[Attempt, Cell]


@dataclass(frozen=True, slots=True)
class KernelMatrix:
    """Everything tried: errno (or 0) of making a VM, by type, and a row for each kind of file.

    Rows are of all flags that have names, and of those others that were accepted.
    """

    vm_types: dict[VmType, int]
    rows: tuple[FileRow, ...]

    def row(self, vm_type: VmType, flags: int) -> FileRow | None:
        """Find a row."""
        for row in self.rows:
            if (row.vm_type, row.flags) == (vm_type, flags):
                return row
        return None

    def to_json(self) -> dict[str, object]:
        """The same as plain values, each cell as `answer` has it; None where nothing was tried."""
        return {
            "vm_types": {kind.name: answer(cell) for kind, cell in self.vm_types.items()},
            "files": [
                {
                    "vm_type": row.vm_type.name,
                    "flags": int(row.flags),
                    "flag_names": flag_names(row.flags),
                    "tried": {
                        attempt.value: None if cell is None else answer(cell)
                        for attempt, cell in row.cells.items()
                    },
                }
                for row in self.rows
            ],
        }


def answer(cell: Cell) -> str:
    """A cell in a word: "yes", the errno's name, or "-" where nothing could be tried."""
    if cell is None:
        return "-"
    return errno.errorcode.get(cell, f"errno {cell}") if cell else "yes"


def flag_names(flags: int) -> str:
    """Creation flags in words: "MMAP INIT_SHARED", "0x4" for a bit without a name, or "none"."""
    named = [flag for flag in GuestMemfdFlag if flags & flag]
    rest = flags & ~sum(named)
    return " ".join([*(flag.name or "" for flag in named), *([f"{rest:#x}"] if rest else [])]) or (
        "none"
    )


def try_matrix(system: System) -> KernelMatrix:
    """Try everything, in some milliseconds. Raises `SystemCallError` where the host runs short."""
    types: dict[VmType, int] = {}
    rows: list[FileRow] = []
    for vm_type in VmType:
        try:
            vm = system.create_vm(vm_type)
        except SystemCallError as error:
            types[vm_type] = error.errno
            continue
        with vm:
            types[vm_type] = 0
            rows.extend(
                FileRow(vm_type, flags, _try_file(system, vm, flags)) for flags in _flags(vm)
            )
    return KernelMatrix(types, tuple(rows))


def _flags(vm: Vm) -> Iterator[GuestMemfdFlag]:
    """All combinations of flags with names, then others that a file can be made with."""
    named = int(sum(GuestMemfdFlag))
    for flags in range(named + 1):
        yield GuestMemfdFlag(flags)
    for bit in range(named.bit_length(), _FLAG_BITS):
        for flags in (GuestMemfdFlag(1 << bit), GuestMemfdFlag(1 << bit | named)):
            try:
                vm.create_guest_memfd(PAGE_SIZE, flags).close()
            except SystemCallError:
                continue
            yield flags


def _try_file(system: System, vm: Vm, flags: GuestMemfdFlag) -> dict[Attempt, Cell]:
    cells: dict[Attempt, Cell] = dict.fromkeys(Attempt)
    with ExitStack() as owned:
        try:
            file = owned.enter_context(vm.create_guest_memfd(PAGE_SIZE, flags))
        except SystemCallError as error:
            cells[Attempt.CREATE] = error.errno
            return cells
        cells[Attempt.CREATE] = 0
        try:
            mapping: GuestMapping = owned.enter_context(file.map())
            cells[Attempt.MAP] = 0
            cells[Attempt.TOUCH] = _errno(lambda: mapping.peek(0, 1))
        except SystemCallError as error:
            cells[Attempt.MAP] = error.errno
            mapping = owned.enter_context(system.map_anonymous(PAGE_SIZE))
        cells |= _try_slots(vm, file, mapping)
    return cells


def _try_slots(vm: Vm, file: GuestMemfd, mapping: GuestMapping) -> dict[Attempt, Cell]:
    def bind(flags: MemslotFlag) -> int:
        slot = Memslot(_ONLY, _GPA, PAGE_SIZE, mapping.hva, flags, file)
        found = _errno(lambda: vm.set_memslot(slot))
        if not found:
            vm.set_memslot(slot._replace(size=0, flags=NO_MEMSLOT_FLAGS, guest_memfd=None))
        return found

    private = MemoryAttribute.PRIVATE
    return {
        Attempt.BIND: bind(NO_MEMSLOT_FLAGS),
        Attempt.BIND_READONLY: bind(MemslotFlag.READONLY),
        Attempt.BIND_DIRTY_LOG: bind(MemslotFlag.LOG_DIRTY_PAGES),
        Attempt.PRIVATE_BY_VM: _errno(lambda: vm.set_memory_attributes(_GPA, PAGE_SIZE, private)),
        Attempt.PRIVATE_BY_FILE: _errno(lambda: file.set_attributes(0, PAGE_SIZE, private)),
    }


def _errno(attempt: Callable[[], object]) -> int:
    """Errno of an attempt; 0 where it succeeded."""
    try:
        attempt()
    except SystemCallError as error:
        return error.errno
    except HostLacksError:
        # The one call here that says so: of an ioctl that is not there at all.
        return errno.ENOTTY
    return 0
