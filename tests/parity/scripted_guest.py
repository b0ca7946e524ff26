# SPDX-License-Identifier: MIT
"""A guest that does what a list of commands says: fill, check, convert, tell the host.

The guest's own code is a loop of some forty instructions (`_INTERPRETER`) which fetches a command
and executes it. So a test writes what its guest does as a `Script`, in Python, and next to it what
the host looks at in between. Code, page tables and commands lie in a shared slot at GPA 0, where
KVM can read an instruction that it has to emulate or to step over; only the data under test lies
elsewhere.
"""

from __future__ import annotations

import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pyvmm.hosts import exits
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment, Sregs

PAGE = 4096
MAP_GPA_RANGE = 12
"""KVM_HC_MAP_GPA_RANGE."""

LOW_SLOT = 0
LOW_SIZE = 1 << 20
CODE = 0x1000
SCRIPTS = 0x1_0000
SCRIPT_ROOM = 0x1_0000
"""Bytes per vCPU."""
PAGE_TABLES = 0x8_0000

PORT = 0x80
FILL, CHECK, TOUCH, READ_FOR_EVER, CONVERT, HOST, DONE, WRONG = range(1, 9)
_COMMAND = struct.Struct("<4Q")

DONE_EXIT = exits.IoOut(PORT, 1, 1, bytes([DONE]))
"""How a script ends."""
_HOST_EXIT = exits.IoOut(PORT, 1, 1, bytes([HOST]))
_WRONG_EXIT = exits.IoOut(PORT, 1, 1, bytes([WRONG]))

_INTERPRETER = f"""
next:   # RBX: the next command, a number and three arguments
        mov 0(%rbx), %rax
        mov 8(%rbx), %rdi
        mov 16(%rbx), %rcx
        mov 24(%rbx), %rdx
        add ${_COMMAND.size}, %rbx
        cmp ${FILL}, %eax
        je fill
        cmp ${CHECK}, %eax
        je check
        cmp ${TOUCH}, %eax
        je touch
        cmp ${READ_FOR_EVER}, %eax
        je read
        cmp ${CONVERT}, %eax
        je convert
        out %al, ${PORT}
        jmp next

fill:   mov %rdx, %rax
        shr $3, %rcx
        rep stosq
        jmp next

check:  mov %rdx, %rax
        shr $3, %rcx
        repe scasq
        je next
        sub $8, %rdi            # what is there instead
        mov (%rdi), %rdx
wrong:  mov ${WRONG}, %al
        out %al, ${PORT}
        hlt

touch:  mov (%rdi), %rax
        add ${PAGE}, %rdi
        sub ${PAGE}, %rcx
        jnz touch
        jmp next

read:   mov (%rdi), %rax
        jmp read

convert:
        mov %rbx, %rsi
        mov %rdi, %rbx
        mov ${MAP_GPA_RANGE}, %eax
        HYPERCALL
        mov %rsi, %rbx
        test %rax, %rax
        jz next
        mov %rax, %rdx
        jmp wrong
"""


def assemble(folder: Path, *, amd: bool) -> bytes:
    """The interpreter's machine code; `amd`: hypercalls by VMMCALL and not by VMCALL."""
    source = _INTERPRETER.replace("HYPERCALL", "vmmcall" if amd else "vmcall")
    steps = (["as", "--64", "-o", "code.o"], ["objcopy", "-O", "binary", "code.o", "code.bin"])
    for step in steps:
        done = subprocess.run(
            step, cwd=folder, input=source, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return (folder / "code.bin").read_bytes()


@dataclass(frozen=True)
class Command:
    """One thing for the guest to do; `action`: what the host does when the guest is there."""

    number: int
    gpa: int = 0
    size: int = 0
    value: int = 0
    action: Callable[[], None] | None = None

    def __str__(self) -> str:
        name = ("fill", "check", "touch", "read for ever", "convert", "tell the host", "end")
        return f"{name[self.number - 1]} {self.gpa:#x}+{self.size:#x} {self.value:#x}"


class Script:
    """What a guest does, in order. GPAs and sizes in bytes, whole pages."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def fill(self, gpa: int, size: int, byte: int) -> None:
        """Write `byte` everywhere."""
        self.commands.append(Command(FILL, gpa, size, _repeated(byte)))

    def check(self, gpa: int, size: int, byte: int) -> None:
        """Read all of it: the run fails where something other than `byte` is found."""
        if size:
            self.commands.append(Command(CHECK, gpa, size, _repeated(byte)))

    def touch(self, gpa: int, size: int) -> None:
        """Read the first word of each page."""
        self.commands.append(Command(TOUCH, gpa, size))

    def read_for_ever(self, gpa: int) -> None:
        """Read one word again and again."""
        self.commands.append(Command(READ_FOR_EVER, gpa))

    def convert(self, gpa: int, size: int, attributes: int) -> None:
        """KVM_HC_MAP_GPA_RANGE; the run fails where its result is not 0."""
        self.commands.append(Command(CONVERT, gpa, size // PAGE, attributes))

    def host(self, action: Callable[[], None]) -> None:
        """Stop until the host has done `action`."""
        self.commands.append(Command(HOST, action=action))

    def encode(self) -> bytes:
        commands = (*self.commands, Command(DONE))
        return b"".join(_COMMAND.pack(c.number, c.gpa, c.size, c.value) for c in commands)


def _repeated(byte: int) -> int:
    return int.from_bytes(bytes([byte]) * 8, "little")


class PageTables:
    """Four-level page tables of a guest, written into its memory at GPA `PAGE_TABLES`."""

    def __init__(self, memory: Mapping) -> None:
        self._memory = memory
        self._free = PAGE_TABLES + PAGE

    def map(self, linear: int, gpa: int, size: int) -> None:
        """Map whole pages for every ring; any other access triple-faults: there is no IDT."""
        with self._memory.view() as view:
            for offset in range(0, size, PAGE):
                table = PAGE_TABLES
                for level in (3, 2, 1):
                    slot = table + (linear + offset >> 12 + 9 * level & 0x1FF) * 8
                    (entry,) = struct.unpack_from("<Q", view, slot)
                    if not entry:
                        entry = self._free | 7
                        self._free += PAGE
                        assert self._free <= LOW_SIZE
                        struct.pack_into("<Q", view, slot, entry)
                    table = entry & ~0xFFF
                slot = table + (linear + offset >> 12 & 0x1FF) * 8
                struct.pack_into("<Q", view, slot, gpa + offset | 7)


class ScriptedGuest(Owner):
    """A VM with the interpreter in it. Owned by its maker, as a context manager."""

    def __init__(self, system: System, vm: Vm, code: bytes) -> None:
        self.vm = vm
        self._owned = ExitStack()
        self._low = self._owned.enter_context(system.map_anonymous(LOW_SIZE))
        vm.set_memslot(Memslot(LOW_SLOT, 0, LOW_SIZE, self._low.hva))
        self._write(CODE, code)
        self.tables = PageTables(self._low)
        self.tables.map(0, 0, LOW_SIZE)
        self.vcpus: list[Vcpu] = []

    def close(self) -> None:
        """Its vCPUs and memory go; the VM stays."""
        self._owned.close()

    def _write(self, gpa: int, data: bytes) -> None:
        with self._low.view() as view:
            view[gpa : gpa + len(data)] = data

    @contextmanager
    def vcpu(self, index: int = 0) -> Iterator[ScriptedVcpu]:
        """A vCPU, for the calling thread."""
        with self.vm.create_vcpu(index) as vcpu:
            vcpu.use_host_cpuid()
            self.vcpus.append(vcpu)
            yield ScriptedVcpu(self, vcpu, SCRIPTS + index * SCRIPT_ROOM)

    def load(self, gpa: int, script: Script) -> None:
        data = script.encode()
        assert len(data) <= SCRIPT_ROOM
        self._write(gpa, data)

    def kick_all(self) -> None:
        """Stop every vCPU, from any thread."""
        for vcpu in self.vcpus:
            vcpu.kick()


class ScriptedVcpu:
    """One vCPU that executes scripts, one after the other."""

    def __init__(self, guest: ScriptedGuest, vcpu: Vcpu, at: int) -> None:
        self.vcpu = vcpu
        self._guest = guest
        self._at = at

    def run(
        self,
        script: Script,
        on_hypercall: Callable[[exits.Hypercall], int] | None = None,
        ring: int = 0,
    ) -> exits.Exit:
        """Run until something neither `script` nor `on_hypercall` explains: `DONE_EXIT`, usually.

        `on_hypercall` gives the guest's result. Fails the test where the guest finds something
        other than the script says. `ring` 3: the processor itself runs it on every host; ring 0 is
        run by KVM's emulator where hardware virtualization is missing. Hypercalls need ring 0.
        """
        self._guest.load(self._at, script)
        regs = Regs(rip=CODE, rbx=self._at, rflags=2 | ring << 12)
        self.vcpu.set_entry(regs, _long_mode(self.vcpu.get_sregs(), ring))
        while True:
            exit_ = self.vcpu.run()
            if exit_ == _HOST_EXIT:
                action = self._present(script).action
                assert action is not None
                action()
            elif isinstance(exit_, exits.Hypercall) and on_hypercall is not None:
                self.vcpu.answer_hypercall(on_hypercall(exit_))
            elif exit_ in (_WRONG_EXIT, exits.Interrupted()):
                regs = self.vcpu.get_regs()
                found = f"found {regs.rdx:#x}" if exit_ == _WRONG_EXIT else "stopped by the host"
                raise AssertionError(f"{self._present(script)}: {found} at {regs.rdi:#x}")
            else:
                return exit_

    def _present(self, script: Script) -> Command:
        return script.commands[(self.vcpu.get_regs().rbx - self._at) // _COMMAND.size - 1]


def _long_mode(sregs: Sregs, ring: int) -> Sregs:
    code = Segment(0, 0xFFFF_FFFF, 0x08 | ring, 11, 1, ring, 0, 1, 1, 1, 0, 0)
    data = replace(code, selector=0x10 | ring, type=3, l=0, db=1)
    return replace(
        sregs,
        cs=code,
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        cr0=Cr0.PE | Cr0.ET | Cr0.NE | Cr0.PG,
        cr3=PAGE_TABLES,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )


@contextmanager
def not_longer_than(seconds: float, guest: ScriptedGuest) -> Iterator[None]:
    """Kick the guest after this time, so that a test of a guest that runs away fails and ends."""
    watchdog = threading.Timer(seconds, guest.kick_all)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()
