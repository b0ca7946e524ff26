# SPDX-License-Identifier: MIT
"""A vCPU that touches memory where it is told: a read or a write of one byte, on any host.

It runs at ring 3 with 4-level page tables: hosts without hardware virtualization run ring 0 in an
emulator, which takes an access that fails for MMIO. Its code and page tables lie in an ordinary
memslot of their own, behind all that it can reach.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.exits import Exit, Interrupted, MemoryFault, MmioRead, MmioWrite
from pyvmm.hosts.interface import GuestMapping, Memslot, Vm
from pyvmm.hosts.owner import Owned, Owner
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment, Sregs
from pyvmm.memory.layout import GIB, MIB
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.rule import errno_name

SLOT = 64
"""The memslot of code and page tables."""
REACH = 16 * GIB
"""End of the GPAs that it can touch, from 0 on."""
PLACE = 2 * REACH
"""GPA of code and page tables."""
_TABLES = PLACE + PAGE_SIZE
_DIRECTORIES = REACH // GIB + 1
"""Page directories: of what it can reach, and of where it is."""
SIZE = (3 + _DIRECTORIES) * PAGE_SIZE
"""Bytes of code and page tables."""
DONE = PLACE + MIB
"""A GPA without memory: a write there says that the access is done. Ports want ring 0 on some."""
_READ = bytes.fromhex("8a06 8807 ebfe")  # mov al, [rsi]; mov [rdi], al; then wait
_WRITE = bytes.fromhex("8806 8807 ebfe")  # mov [rsi], al; mov [rdi], al; then wait
_WRITE_AT = 0x100
_POINTER = 0x7  # present, writable, user
_LARGE = 0x87  # and a page of 2 MiB


def put_program(memory: GuestMapping) -> None:
    """Write code and page tables, for any number of guests, to the first `SIZE` bytes.

    Guests do not write to it, but for accessed bits.
    """
    with memory.view() as view:
        view[: len(_READ)] = _READ
        view[_WRITE_AT : _WRITE_AT + len(_WRITE)] = _WRITE
        top = [_TABLES + PAGE_SIZE | _POINTER]
        reached = [_directory(i) | _POINTER for i in range(_DIRECTORIES - 1)]
        own = _directory(_DIRECTORIES - 1) | _POINTER
        pointers = reached + [0] * (PLACE // GIB - len(reached)) + [own]
        for page, entries in enumerate((top, pointers), 1):
            _put(view, page * PAGE_SIZE, entries)
        for number, start in enumerate([*range(0, REACH, GIB), PLACE]):
            large = [start + MIB * 2 * i | _LARGE for i in range(512)]
            _put(view, _directory(number) - PLACE, large)


def _directory(number: int) -> int:
    return PLACE + (3 + number) * PAGE_SIZE


def _put(view: memoryview, offset: int, entries: list[int]) -> None:
    raw = b"".join(entry.to_bytes(8, "little") for entry in entries)
    view[offset : offset + len(raw)] = raw


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


@dataclass(frozen=True, slots=True)
class Access:
    """Outcome of an access: `value` is the byte that was read or written.

    Where there was no memory it is None, and `exit` is what KVM_RUN gave instead: `MmioWrite`, or
    `MmioRead`, which is answered as an empty bus would, with ones; or `MemoryFault`. KVM_RUN failed
    where there is an `errno`: with that one, and without an exit where it told of none.
    """

    value: int | None
    errno: int = 0
    exit: Exit | None = None

    @property
    def errno_name(self) -> str:
        """``EFAULT`` and the like; "" where KVM_RUN did not fail."""
        return errno_name(self.errno) if self.errno else ""


class Guest(Owner):
    """A VM's vCPU `index`, for the calling thread.

    It holds a reference on the VM: close it before the VM's descriptors for the VM to be freed.
    """

    def __init__(self, vm: Vm, index: int, program: GuestMapping) -> None:
        """Set the memslot `SLOT` to `program`, which is not owned, and make the vCPU.

        Raises `SystemCallError`: with EIO where another process made the VM.
        """
        vm.set_memslot(Memslot(SLOT, PLACE, SIZE, program.hva))
        self._vcpu = vm.create_vcpu(index)
        try:
            self._vcpu.use_host_cpuid()  # without it there is no long mode on real hardware
            self._vcpu.set_sregs(_user_mode(self._vcpu.get_sregs()))
        except BaseException:
            self._vcpu.close()
            raise

    def duplicate(self) -> Owned:
        """One more descriptor of the vCPU."""
        return self._vcpu.duplicate()

    def close(self) -> None:
        """Let go of the vCPU; its VM may then be freed."""
        self._vcpu.close()

    def read(self, gpa: int) -> Access:
        """Read the byte at `gpa`, below `REACH`. Raises `SystemCallError`, `InternalError`."""
        return self._run(Regs(rip=PLACE, rsi=gpa, rdi=DONE))

    def write(self, gpa: int, value: int) -> Access:
        """Write `value`, 0..255, to `gpa`, below `REACH`. Raises as `read`."""
        return self._run(Regs(rip=PLACE + _WRITE_AT, rsi=gpa, rdi=DONE, rax=value))

    def _run(self, regs: Regs) -> Access:
        self._vcpu.set_regs(regs)
        elsewhere: Exit | None = None
        while True:
            try:
                ending = self._vcpu.run()
            except SystemCallError as error:
                # EIO: the slot's file does not know of it. EFAULT: there is nothing at its address.
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                return Access(None, error.errno)
            match ending:
                case MmioWrite(gpa=gpa, data=data) if gpa == DONE:
                    return Access(data[0] if elsewhere is None else None, 0, elsewhere)
                case MmioWrite() if elsewhere is None:
                    elsewhere = ending
                case MmioRead(size=size) if elsewhere is None:
                    elsewhere = ending
                    self._vcpu.answer(b"\xff" * size)
                case Interrupted():
                    pass
                case MemoryFault(errno=number):
                    return Access(None, number, ending)
                case _:
                    raise InternalError("let a guest touch memory", f"it ended with {ending}")
