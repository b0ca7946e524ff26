# SPDX-License-Identifier: MIT
"""Guests of a few instructions: a VM with a page of code, and a vCPU whose exits are values."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from pyvmm.boot.long_mode import identity_map, linux_gdt, linux_sregs
from pyvmm.errors import UsageError
from pyvmm.experiment.guest_code import Code, assemble
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, MemslotFlag, System, Vcpu, Vm
from pyvmm.hosts.raw_exits import OnUnknown, RawExit, is_unknown
from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.machine.config import HostChoice
from pyvmm.machine.hosts import open_host
from pyvmm.machine.ownership import StackOwner
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.exits import Exit

_GDT = PAGE_SIZE
_PAGE_TABLES = 2 * PAGE_SIZE
_LEAST = 16 * PAGE_SIZE
_ENDS = (exits.Hlt, exits.Shutdown, exits.FailEntry, exits.KvmInternalError, exits.Interrupted)


class Guest(StackOwner):
    """A VM with RAM at GPA 0, code in it, and one vCPU, which belongs to the thread that made it.

    `system`, `vm`, `memory` (the host's mapping of RAM), `guest_memfd` (where RAM is one) and
    `vcpu` are the host's own objects (`pyvmm.hosts.interface`); all but a `system` that was given
    are closed with it.
    """

    def __init__(
        self,
        code: Code,
        system: System,
        *,
        memory: int,
        vm_type: int,
        guest_memfd_flags: int | None,
        memslot_flags: int,
        irqchip: bool,
        stack: ExitStack,
    ) -> None:
        self.code = code
        self.system = system
        self._is_kicked_late = False
        # A type without a name goes to the kernel as the number that it is.
        known = VmType(vm_type) if vm_type in set(VmType) else cast(VmType, vm_type)
        self.vm: Vm = stack.enter_context(system.create_vm(known))
        if irqchip:
            self.vm.create_irqchip()
        self.guest_memfd: GuestMemfd | None = None
        if guest_memfd_flags is None:
            self.memory: GuestMapping = stack.enter_context(system.map_anonymous(memory))
        else:
            flags = GuestMemfdFlag(guest_memfd_flags)
            self.guest_memfd = stack.enter_context(self.vm.create_guest_memfd(memory, flags))
            self.memory = stack.enter_context(self.guest_memfd.map())
        for gpa, content in _placed(code):
            self.memory.poke(gpa, content)
        bound, hva = self.guest_memfd, self.memory.hva
        self.memslot = Memslot(0, 0, memory, hva, MemslotFlag(memslot_flags), bound)
        self.vm.set_memslot(self.memslot)
        self.vcpu: Vcpu = stack.enter_context(self.vm.create_vcpu(0))
        self.vcpu.use_host_cpuid()  # Long mode is for vCPUs whose CPUID has it.
        start = memory if code.bits != 16 else code.at
        self.vcpu.set_entry(Regs(rip=code.at, rsp=start), _entry(code, self.vcpu.get_sregs()))
        self.own(stack)

    @property
    def regs(self) -> Regs:
        """The general registers, which can be set as a whole."""
        return self.vcpu.get_regs()

    @regs.setter
    def regs(self, regs: Regs) -> None:
        self.vcpu.set_regs(regs)

    def set(self, **registers: int) -> None:
        """Set some of the general registers by name: ``set(rax=1, rip=guest.code.at)``.

        Raises `UsageError` for a name that is none, and a value that has not 64 bits.
        """
        for name, value in registers.items():
            if not 0 <= value < 1 << 64:
                raise UsageError(f"set register {name}", f"{value:#x} has not 64 bits")
        try:
            self.vcpu.set_regs(dataclasses.replace(self.vcpu.get_regs(), **registers))
        except TypeError:
            names = ", ".join(one.name for one in dataclasses.fields(Regs))
            unknown = next(name for name in registers if name not in names.split(", "))
            raise UsageError(
                f"set register {unknown}", "no general register has this name", f"known: {names}"
            ) from None

    def run(self, timeout: float | None = None) -> Exit:
        """Run until the next exit; after `timeout` seconds, as after a kick, `Interrupted`.

        `IoIn` and `MmioRead` want `vcpu.answer` before the next run. Raises `SystemCallError`, and
        `UsageError` for a timeout that is negative or no number.
        """
        had_kick, self._is_kicked_late = self._is_kicked_late, False
        with self._limited_to(timeout):
            reason = self.vcpu.run()
            if had_kick and reason == exits.Interrupted() and not self._is_kicked_late:
                reason = self.vcpu.run()  # That kick was for the exit before.
        if reason == exits.Interrupted():
            self._is_kicked_late = False
        return reason

    @contextmanager
    def _limited_to(self, timeout: float | None) -> Iterator[None]:
        """Kick the vCPU after that many seconds; behind the block nobody does."""
        if timeout is None:
            yield
            return
        seconds = float(timeout)
        if not seconds >= 0:
            raise UsageError(
                f"run a guest for {timeout} seconds", "that is no time", "leave it out"
            )
        limit = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._kick_late)
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()
            limit.join()

    def _kick_late(self) -> None:
        self._is_kicked_late = True
        self.vcpu.kick()

    def exits(
        self, timeout: float | None = None, *, unknown: OnUnknown | None = None
    ) -> Iterator[Exit]:
        """Run, and yield each exit, up to one with which a guest is at its end: HLT, a crash.

        `timeout` in seconds is for each of them. `unknown` is called with exits that pyvmm does not
        know; those that it deals with (True) are not yielded.
        """
        while True:
            reason = self.run(timeout)
            if unknown is not None and is_unknown(reason) and unknown(self.raw(reason)):
                continue
            yield reason
            if isinstance(reason, _ENDS):
                return

    def raw(self, reason: Exit) -> RawExit:
        """The last exit, `reason`, as the kernel's bytes. Raises `HostLacksError` on the model."""
        return RawExit.of(reason, self.vcpu, 0)

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes of RAM from `gpa` on. Raises `SystemCallError` where the host cannot."""
        return self.memory.peek(gpa, size)

    def write(self, gpa: int, content: bytes) -> None:
        """Put `content` into RAM at `gpa`; as `read`."""
        self.memory.poke(gpa, content)


def guest(
    code: str | bytes | Code,
    *,
    host: str | HostChoice | System = HostChoice.AUTO,
    bits: int = 64,
    memory: int = 2 * MIB,
    vm_type: int = VmType.DEFAULT,
    guest_memfd_flags: int | None = None,
    memslot_flags: int = 0,
    irqchip: bool = False,
) -> Guest:
    """Make a VM that is about to execute `code`: assembly text, machine code, or a `Code`.

    It starts in long mode over an identity map (`bits` 64), flat protected mode (32) or real mode
    (16), at privilege level 0, interrupts off, with a stack. `host` is "auto", "kvm", "model" or a
    host that is open. RAM is `memory` bytes of an anonymous file; with `guest_memfd_flags` it is a
    guest_memfd made with exactly these flags, which must let it be mapped. `memslot_flags` and
    `vm_type` are given as they are, too. With `irqchip` there are in-kernel interrupt controllers,
    and HLT waits instead of exiting. Raises `UsageError`, `HostLacksError`, `SystemCallError`.
    """
    if isinstance(code, str):
        code = assemble(code, bits=bits)
    elif isinstance(code, bytes):
        code = Code(code, bits=bits)
    _check(code, memory)
    for what, value, width in (
        ("memslot_flags", memslot_flags, 32),
        ("guest_memfd_flags", guest_memfd_flags or 0, 64),
        ("vm_type", vm_type, 63),
    ):
        if not 0 <= value < 1 << width:
            raise UsageError(f"make a guest with {what} {value:#x}", f"the kernel has {width} bits")
    with ExitStack() as stack:
        if isinstance(host, str):
            try:
                host = HostChoice(host)
            except ValueError:
                raise UsageError(
                    f"make a guest on {host!r}", "no such host", "give auto, kvm or model"
                ) from None
        if isinstance(host, HostChoice):
            host = stack.enter_context(open_host(host).system)
        return Guest(
            code,
            host,
            memory=memory,
            vm_type=vm_type,
            guest_memfd_flags=guest_memfd_flags,
            memslot_flags=memslot_flags,
            irqchip=irqchip,
            stack=stack,
        )


def _check(code: Code, memory: int) -> None:
    attempt = f"make a guest of {len(code.content)} bytes of code at gpa {code.at:#x}"
    if memory % PAGE_SIZE or memory < _LEAST:
        raise UsageError(
            attempt, f"{memory} bytes of RAM", f"give whole pages, {_LEAST} bytes or more"
        )
    if code.at + len(code.content) > memory:
        raise UsageError(attempt, f"RAM has {memory} bytes", "give it more, or place it lower")
    if code.at < _PAGE_TABLES and code.bits != 16:
        raise UsageError(attempt, "a GDT and page tables are there", "place it higher")


def _placed(code: Code) -> Iterator[tuple[int, bytes]]:
    """Pieces of RAM at the start: GPA and content."""
    if code.bits == 64:
        yield _PAGE_TABLES, identity_map(_PAGE_TABLES)
    if code.bits != 16:
        yield _GDT, linux_gdt(is_long=code.bits == 64)
    yield code.at, code.content


def _entry(code: Code, new: Sregs) -> Sregs:
    if code.bits == 16:
        return dataclasses.replace(new, cs=dataclasses.replace(new.cs, base=0, selector=0))
    return linux_sregs(_GDT, page_tables=_PAGE_TABLES if code.bits == 64 else None)
