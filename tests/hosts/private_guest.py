# SPDX-License-Identifier: MIT
"""Small guests in long mode on a VM with private memory: hand-assembled, one vCPU, no firmware.

Everything is shared at first. Page tables map the first 2 MiB one to one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, ServedSpan
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment, Sregs

PAGE = 4096
ENTRY = 0x1000
TABLES = 0x4000
"""Three pages: the shared page tables that a guest begins with."""
STAGED = 0x8000
"""Three pages of tables and one of code, as they shall be in private memory."""
PRIVATE = 0x100000
"""Where they go: tables, then code."""
PRIVATE_CODE = PRIVATE + 3 * PAGE
DATA = 0x180000
"""Free for conversions, up to the end."""
RAM_SIZE = 0x200000
FILE_OFFSET = 5 * PAGE
"""Where the RAM begins in its guest_memfd."""

MAP_GPA_RANGE = 12
TO_SHARED = 0
TO_PRIVATE = 0x10

_REGISTERS = {"rax": 0xB8, "rcx": 0xB9, "rdx": 0xBA, "rbx": 0xBB, "rsi": 0xBE, "rdi": 0xBF}
OUT_EAX = bytes.fromhex("e761")
"""out 0x61, eax"""
FINISH = bytes.fromhex("e662")
"""out 0x62, al"""


def has_private_memory(system: System) -> bool:
    offered = system.capabilities()
    return (
        VmType.SW_PROTECTED in offered.vm_types
        and MemoryAttribute.PRIVATE in offered.memory_attributes
    )


def set_register(name: str, value: int) -> bytes:
    """mov name, value"""
    return bytes((0x48, _REGISTERS[name])) + value.to_bytes(8, "little")


def _hypercall_instruction() -> bytes:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    return bytes.fromhex("0f01c1" if "vmx" in flags else "0f01d9")  # vmcall, vmmcall


def convert(gpa: int, pages: int, attributes: int) -> bytes:
    """The hypercall; its result is in RAX."""
    registers = {"rax": MAP_GPA_RANGE, "rbx": gpa, "rcx": pages, "rdx": attributes}
    return b"".join(set_register(*pair) for pair in registers.items()) + _hypercall_instruction()


def store(gpa: int, value: int) -> bytes:
    """Write 4 bytes: mov rdi, gpa; mov dword [rdi], value"""
    return set_register("rdi", gpa) + b"\xc7\x07" + value.to_bytes(4, "little")


def report(gpa: int) -> bytes:
    """Read 4 bytes and tell: mov rdi, gpa; mov eax, [rdi]; out 0x61, eax"""
    return set_register("rdi", gpa) + b"\x8b\x07" + OUT_EAX


def jump_back(size: int) -> bytes:
    """To `size` bytes before this instruction: jmp rel32"""
    return b"\xe9" + (-size - 5).to_bytes(4, "little", signed=True)


def repeat(code: bytes) -> bytes:
    return code + jump_back(len(code))


def tables_at(gpa: int) -> bytes:
    """Three pages of page tables."""
    entries = (gpa + PAGE + 3, gpa + 2 * PAGE + 3, 0x83)
    return b"".join(entry.to_bytes(8, "little").ljust(PAGE, b"\0") for entry in entries)


def go_private() -> bytes:
    """Copy what is staged into private memory, and go on there with the page tables there.

    mov rsi, STAGED; mov rdi, PRIVATE; mov rcx, 4 pages; rep movsb;
    mov rax, PRIVATE; mov cr3, rax; mov rax, PRIVATE_CODE; jmp rax
    """
    return (
        convert(PRIVATE, 4, TO_PRIVATE)
        + set_register("rsi", STAGED)
        + set_register("rdi", PRIVATE)
        + set_register("rcx", 4 * PAGE)
        + bytes.fromhex("f3a4")
        + set_register("rax", PRIVATE)
        + bytes.fromhex("0f22d8")
        + set_register("rax", PRIVATE_CODE)
        + bytes.fromhex("ffe0")
    )


@dataclass
class PrivateGuest:
    vm: Vm
    vcpu: Vcpu
    ram: Mapping
    file: GuestMemfd

    def write(self, gpa: int, data: bytes) -> None:
        with self.ram.view() as view:
            view[gpa : gpa + len(data)] = data

    def read(self, gpa: int, size: int) -> bytes:
        """Of the shared side. Looking at a page that is not there makes it: see `shared_size`."""
        with self.ram.view() as view:
            return bytes(view[gpa : gpa + size])

    def stage(self, code: bytes) -> None:
        """What `go_private` takes into private memory."""
        self.write(STAGED, tables_at(PRIVATE) + code)

    def span(self, gpa: int = 0, size: int = RAM_SIZE) -> ServedSpan:
        return ServedSpan(gpa, size, self.ram.hva + gpa, self.file, FILE_OFFSET + gpa)

    def shared_size(self, gpa: int, size: int) -> int:
        return self.ram.resident(gpa, size)

    def private_size(self, gpa: int, size: int) -> int:
        return self.file.resident(FILE_OFFSET + gpa, size)


MakePrivateGuest = Callable[..., PrivateGuest]


def load(guest: PrivateGuest, code: bytes) -> None:
    """Code and page tables into shared memory, and the vCPU to its start: ring 0, 64-bit."""
    guest.write(TABLES, tables_at(TABLES))
    guest.write(ENTRY, code)
    cs = Segment(0, 0xFFFF_FFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0)
    data = Segment(0, 0xFFFF_FFFF, 0x10, 3, 1, 0, 1, 1, 0, 1, 0, 0)
    now = guest.vcpu.get_sregs()
    sregs = Sregs(
        cs, data, data, data, data, data, now.tr, now.ldt, now.gdt, now.idt,
        cr0=Cr0.PG | Cr0.PE | Cr0.ET | Cr0.NE | Cr0.WP,
        cr3=TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )  # fmt: skip
    guest.vcpu.set_entry(Regs(rip=ENTRY), sregs)


def two_sided_slot(ram: Mapping, file: GuestMemfd) -> Memslot:
    return Memslot(0, 0, RAM_SIZE, ram.hva, guest_memfd=file, guest_memfd_offset=FILE_OFFSET)
