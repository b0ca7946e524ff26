# SPDX-License-Identifier: MIT
"""A vCPU of the model over memory of the test's own, and the guest code for it."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pyvmm.boot.tables import protected_mode
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model.address_space import InterruptControllers, Span
from pyvmm.hosts.model.doorbells import ModelDoorbells
from pyvmm.hosts.model.turn import Turn
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.registers import Regs

CODE = 0x1000
STACK = 0x8000
SIZE = 1 << 20


@cache
def assemble(source: str, bits: int = 32, origin: int = CODE) -> bytes:
    """Machine code that begins at `origin`."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "a.s").write_text(f".code{bits}\n{source}\n")
        done = [
            ["as", "--64", "-o", "a.o", "a.s"],
            ["ld", f"-Ttext={origin:#x}", "-e", f"{origin:#x}", "-o", "a.elf", "a.o"],
            ["objcopy", "-O", "binary", "-j", ".text", "a.elf", "a.bin"],
        ]
        for command in done:
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return (place / "a.bin").read_bytes()


class Memory:
    """One block of RAM from 0, and what a test makes of the rest."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, SIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        self.generation = 1
        self._spans: list[Span] = [Span(0, SIZE, self.address, True)]
        self.on_blocked: Callable[[int, int, bool], Exit | None] = lambda *_: None

    def spans(self) -> Sequence[Span]:
        return self._spans

    def set_spans(self, *spans: Span) -> None:
        self._spans = list(spans)
        self.generation += 1

    def blocked(self, gpa: int, size: int, write: bool) -> Exit | None:
        return self.on_blocked(gpa, size, write)


class Posts:
    def __init__(self) -> None:
        self.reads: dict[int, int] = {}
        self.writes: set[int] = set()
        self.ring: list[tuple[int, int]] = []
        self.room = 1000

    def read_value(self, port: int) -> int | None:
        return self.reads.get(port)

    def takes_writes(self, port: int) -> bool:
        return port in self.writes

    def push(self, vcpu: int, port: int, value: int) -> bool:
        if len(self.ring) >= self.room:
            return False
        self.ring.append((port, value))
        return True


class Services:
    """What a VM is to its vCPUs."""

    def __init__(self, controllers: InterruptControllers | None = None) -> None:
        self.memory = Memory()
        self.posts = Posts()
        self.controllers = controllers
        self.doorbells = ModelDoorbells()
        self.hypercall_exits = 0
        self.disabled_exits = 0
        self.lock = Turn()

    def convert(self, gpa: int, size: int, private: bool) -> bool:
        return False

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.lock():
            yield

    @property
    def turn_wanted(self) -> bool:
        return self.lock.is_wanted


@contextmanager
def guest(
    source: str, services: Services | None = None, *, index: int = 0, at: int = CODE
) -> Iterator[ModelVcpu]:
    """A vCPU in 32-bit protected mode, flat, at the first instruction of `source`."""
    services = services or Services()
    code = assemble(source, 32, at)
    services.memory.ram[at : at + len(code)] = code
    with ModelVcpu(index, services) as vcpu:
        vcpu.use_host_cpuid()
        vcpu.set_entry(Regs(rip=at, rsp=STACK - 0x1000 * index), protected_mode())
        vcpu.make_runnable()
        yield vcpu


TO_LONG_MODE = """
    mov $tables, %edi
    movl $(tables + 0x1003), (%edi)
    movl $(tables + 0x2003), 0x1000(%edi)
    movl $0x83, 0x2000(%edi)
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov %edi, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80010001, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $in_long_mode
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
    .quad 0x0000890000000067 + (task << 16), 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
    .set tables, 0x20000
    .set task, 0x7000
    .set idt, 0x6000
    .code64
/* Gate %edi leads to %esi, with the flags %edx. */
set_gate:
    shl $4, %edi
    lea idt(%rdi), %rdi
    mov %si, (%rdi)
    movw $8, 2(%rdi)
    mov %dx, 4(%rdi)
    shr $16, %esi
    mov %si, 6(%rdi)
    ret
idt_pointer:
    .word 0x2ff
    .quad idt
in_long_mode:
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    lidt idt_pointer(%rip)
    mov $0x28, %eax
    ltr %ax
"""
"""Identity-mapped long mode with a GDT, an empty IDT and a TSS; goes on in 64-bit code."""

INTERRUPT_GATE = 0x8E00
OPEN_GATE = 0xEE00


def after(seconds: float, function: Callable[[], None]) -> threading.Timer:
    """Call `function` later, from another thread."""
    timer = threading.Timer(seconds, function)
    timer.start()
    return timer
