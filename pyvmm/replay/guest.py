# SPDX-License-Identifier: MIT
"""A vCPU that touches memory where it is told: a read or a write of one byte.

It runs at ring 3 with 4-level page tables: hosts without hardware virtualization run ring 0 in an
emulator, which takes an access that fails for MMIO. Its code and page tables lie in an ordinary
memslot of their own, far from those of a story.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache

from pyvmm.errors import InternalError
from pyvmm.hosts.exits import EHWPOISON, MemoryFault, MmioWrite
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.mapping import Mapping, map_anonymous
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment, Sregs
from pyvmm.rules.abi import PAGE_SIZE

SLOT = 64
"""The memslot of code and page tables."""
PLACE = 0x10_0000
"""Its GPA; below it is room for the slots of a story, from 0 on."""
_CODE = PLACE
_TABLES = PLACE + PAGE_SIZE
_SIZE = 0x4000
_DONE = 0x1F_0000
"""A GPA without memory: a write there says that the access is done. Ports want ring 0 on some."""
_READ = bytes.fromhex("8a06 8807")  # mov al, [rsi]; mov [rdi], al
_WRITE = bytes.fromhex("8806 8807")  # mov [rsi], al; mov [rdi], al
_WRITE_AT = 0x100


@cache
def code_and_tables() -> Mapping:
    """One copy for every VM of this process: guests do not write to it, but for accessed bits."""
    memory = map_anonymous(_SIZE)
    with memory.view() as view:
        view[: len(_READ)] = _READ
        view[_WRITE_AT : _WRITE_AT + len(_WRITE)] = _WRITE
        for level, entry in enumerate((_TABLES + 0x1007, _TABLES + 0x2007, 0x87)):
            at = _TABLES - PLACE + level * PAGE_SIZE
            view[at : at + 8] = entry.to_bytes(8, "little")
    return memory


def _user_mode(sregs: Sregs) -> Sregs:
    code = Segment(0, 0xFFFF_FFFF, 0x1B, 11, 1, 3, 0, 1, 1, 1, 0, 0)
    data = replace(code, selector=0x23, type=3, l=0, db=1)
    return replace(
        sregs,
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        cr0=Cr0.PG | Cr0.PE,
        cr3=_TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )


class Guest(Owner):
    """A VM's vCPU `index`. It holds a reference on the VM: close it before the VM's descriptors."""

    def __init__(self, vm: Vm, index: int) -> None:
        """Raises `KvmError`: with EIO where another process made the VM."""
        memory = code_and_tables()
        vm.set_memslot(Memslot(SLOT, PLACE, _SIZE, memory.hva))
        self._vcpu = vm.create_vcpu(index)
        self._vcpu.use_host_cpuid()  # without it there is no long mode on real hardware
        self._vcpu.set_sregs(_user_mode(self._vcpu.get_sregs()))

    def close(self) -> None:
        """Let go of the vCPU; its VM may then be freed."""
        self._vcpu.close()

    def read(self, gpa: int) -> int | str:
        """The byte at `gpa`; the errno's name where KVM_RUN fails."""
        return self._run(Regs(rip=_CODE, rsi=gpa, rdi=_DONE))

    def write(self, gpa: int, value: int) -> int | str:
        """Write `value`, 0..255: the value, or the errno's name where KVM_RUN fails."""
        at = _CODE + _WRITE_AT
        return self._run(Regs(rip=at, rsi=gpa, rdi=_DONE, rax=value))

    def _run(self, regs: Regs) -> int | str:
        self._vcpu.set_regs(regs)
        try:
            ending = self._vcpu.run()
        except KvmError as error:
            # EIO: the slot's file does not know of it. EFAULT: there is nothing at its address.
            if error.errno not in (errno.EIO, errno.EFAULT):
                raise
            return errno.errorcode[error.errno]
        if isinstance(ending, MmioWrite) and ending.gpa == _DONE:
            return ending.data[0]
        if isinstance(ending, MemoryFault):
            return "EHWPOISON" if ending.errno == EHWPOISON else errno.errorcode[ending.errno]
        raise InternalError("let a guest touch memory", f"it ended with {ending}")
