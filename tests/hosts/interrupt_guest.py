# SPDX-License-Identifier: MIT
"""A guest that takes interrupts and says which, on any host: 64-bit code, an 8259, a local APIC.

For each interrupt it writes the vector to `TAKEN` at the begin of the handler, and to `ENDED` after
its end of interrupt; in between and outside of handlers it is halted, waiting for the next one.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pyvmm.boot.tables import FLAT_CODE, FLAT_DATA, TASK, descriptor, protected_mode
from pyvmm.hosts import exits, interface
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.registers import Cr0, Cr4, DescriptorTable, Efer, Regs, Sregs
from tests.hosts.model.small_guest import CODE, SIZE, STACK, assemble

READY, TAKEN, ENDED = 0x70, 0x80, 0x81
GDT, IDT, PAGE_TABLES = 0x9000, 0xA000, 0x10000
CODE_SELECTOR = 8
EDGE_PIN, LEVEL_PIN, SLAVE_PIN = 6, 5, 11
"""The guest makes the last two level-triggered, by the ELCR. The first has the lowest priority: who
sees it served knows that nothing else waited."""
LOW, HIGH = 0x50, 0x60
"""Vectors of messages: of two that wait, the higher one is delivered first."""
APIC = 0xFEE0_0000

RUNAWAY_SECONDS = 60


def vector_of(pin: int) -> int:
    return 32 + pin


MASTER_END = "mov $0x20, %al; out %al, $0x20\n"
END_AT_APIC = f"mov ${APIC:#x}, %rax; movl $0, 0xb0(%rax)\n"
HANDLERS = {
    vector_of(EDGE_PIN): MASTER_END,
    vector_of(LEVEL_PIN): MASTER_END,
    vector_of(SLAVE_PIN): "mov $0x20, %al; out %al, $0xa0; out %al, $0x20\n",
    LOW: END_AT_APIC,
    HIGH: END_AT_APIC,
}
HANDLER_SIZE = 64
SET_UP = f"""
    mov $0x11, %al; out %al, $0x20; out %al, $0xa0
    mov $32, %al; out %al, $0x21; mov $40, %al; out %al, $0xa1
    mov $4, %al; out %al, $0x21; mov $2, %al; out %al, $0xa1
    mov $1, %al; out %al, $0x21; out %al, $0xa1
    xor %al, %al; out %al, $0x21; out %al, $0xa1
    mov $0x4d0, %dx; mov ${1 << LEVEL_PIN}, %al; out %al, %dx
    inc %dx; mov ${1 << SLAVE_PIN - 8}, %al; out %al, %dx
    mov ${APIC:#x}, %rax; movl $0x1ff, 0xf0(%rax)
    out %al, ${READY}
"""
WAIT_FOR_EVER = "1: sti; hlt; jmp 1b\n"


def with_handlers(main: str) -> str:
    """`main` behind the set-up; the handlers first, each at a place of its own."""
    handlers = "".join(
        f".balign {HANDLER_SIZE}\nmov ${vector}, %al; out %al, ${TAKEN}; {end}"
        f"mov ${vector}, %al; out %al, ${ENDED}; iretq\n"
        for vector, end in HANDLERS.items()
    )
    return f"jmp main\n{handlers}\nmain:\n{SET_UP}\n{main}"


LONG_CODE = replace(FLAT_CODE, db=0, l=1)


def gdt() -> bytes:
    return bytes(8) + b"".join(map(descriptor, (LONG_CODE, FLAT_DATA, TASK)))


def idt() -> bytes:
    """A gate for each handler (SDM vol. 3A, figure 6-8)."""
    table = bytearray(16 * 256)
    for number, vector in enumerate(HANDLERS, start=1):
        place = CODE + HANDLER_SIZE * number
        gate = struct.pack("<HHBBHQ", place & 0xFFFF, CODE_SELECTOR, 0, 0x8E, place >> 16, 0)
        table[16 * vector : 16 * vector + 16] = gate
    return bytes(table)


def page_tables() -> bytes:
    """The first 2 MiB and the fourth GiB one to one, in pages of 2 MiB."""

    def page(*entries: tuple[int, int]) -> bytes:
        words = dict(entries)
        return b"".join(words.get(index, 0).to_bytes(8, "little") for index in range(512))

    pdpt, low, high = (PAGE_TABLES + 0x1000 * number | 3 for number in (1, 2, 3))
    large = tuple((index, 3 << 30 | index << 21 | 0x83) for index in range(512))
    return page((0, pdpt)) + page((0, low), (3, high)) + page((0, 0x83)) + page(*large)


def long_mode() -> Sregs:
    return replace(
        protected_mode(GDT),
        cs=LONG_CODE,
        gdt=DescriptorTable(GDT, len(gdt()) - 1),
        idt=DescriptorTable(IDT, len(idt()) - 1),
        cr0=Cr0.PG | Cr0.PE | Cr0.ET,
        cr3=PAGE_TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )


@dataclass
class Guest:
    vm: interface.Vm
    vcpu: interface.Vcpu

    def next(self) -> exits.Exit:
        return self.vcpu.run()

    def takes(self, vector: int) -> None:
        """It goes on, and the next that happens is this interrupt, up to before its end."""
        assert self.vcpu.run() == exits.IoOut(TAKEN, 1, 1, bytes([vector]))

    def ends(self, vector: int) -> None:
        assert self.vcpu.run() == exits.IoOut(ENDED, 1, 1, bytes([vector]))

    def serves(self, vector: int) -> None:
        self.takes(vector)
        self.ends(vector)


@contextmanager
def running(system: interface.System, source: str, *, interrupts: bool = True) -> Iterator[Guest]:
    """A guest at its first instruction; it is kicked when it hangs, so that a test fails."""
    with system.create_vm() as vm, system.map_anonymous(SIZE) as ram:
        if interrupts:
            vm.create_irqchip()
        vm.set_memslot(Memslot(0, 0, SIZE, ram.hva))
        with ram.view() as view:
            for gpa, data in (
                (CODE, assemble(source, 64)),
                (GDT, gdt()),
                (IDT, idt()),
                (PAGE_TABLES, page_tables()),
            ):
                view[gpa : gpa + len(data)] = data
        with vm.create_vcpu(0) as vcpu:
            vcpu.use_host_cpuid()
            vcpu.set_entry(Regs(rip=CODE, rsp=STACK), long_mode())
            watchdog = threading.Timer(RUNAWAY_SECONDS, vcpu.kick)
            watchdog.start()
            try:
                yield Guest(vm, vcpu)
            finally:
                watchdog.cancel()
                watchdog.join()


@contextmanager
def waiting(system: interface.System) -> Iterator[Guest]:
    """A guest that has set everything up and waits for interrupts for ever."""
    with running(system, with_handlers(WAIT_FOR_EVER)) as guest:
        assert isinstance(guest.next(), exits.IoOut)
        yield guest
