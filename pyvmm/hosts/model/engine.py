# SPDX-License-Identifier: MIT
"""One Unicorn engine: guest code runs here, against the spans of an `AddressSpace` and no others.

What needs the monitor ends `execute` by way of SVM's intercepts (APM vol. 2, 15.9), which QEMU's
instruction emulation has and which name the instruction precisely. Accesses to ports and to
memory-mapped devices are made while the instruction executes: `Devices` answers them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Protocol

from pyvmm.errors import HostLacksError
from pyvmm.hosts.model import unicorn_library as unicorn
from pyvmm.hosts.model.address_space import AddressSpace, Span
from pyvmm.hosts.model.cpu_state import BEHIND_CR, MSRS, CpuState, Layout
from pyvmm.hosts.model.outcomes import (
    AtBreakpoint,
    Broken,
    Outcome,
    Stopped,
    Trap,
    Unreachable,
)
from pyvmm.hosts.registers import Efer
from pyvmm.rules.abi import PAGE_SIZE

_CODE_BUFFER = 64 << 20
"""Bytes of address space for translated code; Unicorn would take a GiB for each vCPU."""

_CONTROL_GPA = 1 << 52
"""GPA of the intercepts' tables: no page table entry reaches so far (PG_ADDRESS_MASK)."""
_CONTROL_SIZE = 0x8000
_MSR_PERMISSIONS = 0x2000
_MSRPM_FIELD = 0x48  # struct vmcb_control_area

EXIT = 0x100
"""EXCP_VMEXIT: intercepts arrive as this plus SVM's exit code."""
EXCEPTION = 0x40
CPUID = 0x72
SWINT = 0x75
PAUSE = 0x77
HLT = 0x78
MSR = 0x7C
ICEBP = 0x88
SYSCALL = 0x1000
"""No code of SVM's: Unicorn leaves SYSCALL to its embedder, and RIP is behind it already."""
_PAGE_FAULT = 14
_FIRST = 0x60
_INTERCEPTS = sum(
    1 << code - _FIRST for code in (CPUID, SWINT, HLT, MSR, *range(0x80, 0x87), ICEBP)
)
PAUSE_INTERCEPT = 1 << PAUSE - _FIRST

# State at the start of `struct uc_context`: found by `_layout`.
_EFER = 0xC000_0080
_EFER_MARK = Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE
"""As the engine begins, and two bits more."""
_MARK = 0x1D5E_A5ED_C0FF_EE11


class Devices(Protocol):
    """Receiver of the accesses that an instruction makes while it executes. Must not raise."""

    def port_in(self, port: int, size: int) -> int:
        """A read of a port."""
        ...

    def port_out(self, port: int, size: int, value: int) -> None:
        """A write to a port."""
        ...

    def mmio_read(self, gpa: int, size: int) -> int:
        """A read where there is no memory."""
        ...

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A write where there is no memory to be written."""
        ...


class Engine:
    """Owns a Unicorn engine. All but `stop` is for one thread at a time."""

    def __init__(self, devices: Devices) -> None:
        """Raises `HostLacksError` without a Unicorn that fits."""
        self._library = unicorn.library()
        self._devices = devices
        self._mapped: dict[tuple[int, int], Span] = {}
        self._mmio: set[int] = set()
        self._generation: int | None = None
        self._trap = -1
        self._missed: Unreachable | None = None
        self._is_executing = self._has_remapped = False
        self.is_stopping = False
        """True once `stop` has been called since `execute` began."""
        self._code_is_stale = False
        self._breaks: list[int] = []
        self._is_at_break = False
        self.ignores_breaks = False
        self._tables = bytearray(_CONTROL_SIZE)
        handle = c_void_p()
        unicorn.check(
            self._library.uc_open(unicorn.ARCH_X86, unicorn.MODE_64, byref(handle)),
            "make a processor",
        )
        self._handle = handle
        self._closed = False
        self._set_up()

    def _set_up(self) -> None:
        handle = self._handle
        unicorn.control(handle, unicorn.CTL_CODE_BUFFER, c_uint32(_CODE_BUFFER))
        unicorn.control(handle, unicorn.CTL_TLB_TYPE, c_int(unicorn.TLB_CPU))
        unicorn.control(handle, unicorn.CTL_USE_EXITS, c_int(1))
        unicorn.control(handle, unicorn.CTL_EXITS, None, c_size_t(0))
        self._hooks = (
            unicorn.OnInterrupt(self._on_interrupt),
            unicorn.OnMemory(self._on_memory),
            unicorn.OnIn(self._on_in),
            unicorn.OnOut(self._on_out),
            unicorn.OnMmioRead(self._on_mmio_read),
            unicorn.OnMmioWrite(self._on_mmio_write),
            unicorn.OnSyscall(self._on_syscall),
            unicorn.OnCode(self._on_code),
        )
        unicorn.hook(handle, unicorn.HOOK_INTR, self._hooks[0])
        memory = unicorn.HOOK_MEM_UNMAPPED | unicorn.HOOK_MEM_PROT
        unicorn.hook(handle, memory, self._hooks[1])
        unicorn.hook(handle, unicorn.HOOK_INSN, self._hooks[2], c_int(unicorn.INSN_IN))
        unicorn.hook(handle, unicorn.HOOK_INSN, self._hooks[3], c_int(unicorn.INSN_OUT))
        unicorn.hook(handle, unicorn.HOOK_INSN, self._hooks[6], c_int(unicorn.INSN_SYSCALL))
        context = c_void_p()
        unicorn.check(self._library.uc_context_alloc(handle, byref(context)), "make a processor")
        self._context = context
        self._find_state()
        self._map_tables()

    def _find_state(self) -> None:
        """Find the state in a context, and the offsets of its fields."""
        library, handle = self._library, self._handle
        size = library.uc_context_size(handle)
        marks = {index: _MARK + 2 + number for number, index in enumerate(MSRS)}
        self._write(unicorn.REG_RAX, c_uint64(_MARK))
        self._write(unicorn.REG_DR0, c_uint64(_MARK + 1))
        for index, mark in marks.items():
            value = mark & 0xFFFF if index == 0x174 else mark
            self._write(unicorn.REG_MSR, unicorn.Msr(index, value))
        context = self._context
        self._write(unicorn.REG_MSR, unicorn.Msr(_EFER, _EFER_MARK))
        library.uc_context_save(handle, context)
        place = context.value or 0
        whole = ctypes.string_at(place, size)

        def find(mark: int) -> int:
            return whole.find(mark.to_bytes(8, "little"))

        start, dr = find(_MARK), find(_MARK + 1)
        msrs = {index: find(mark) - start for index, mark in marks.items() if find(mark) >= 0}
        efer = whole.find(_EFER_MARK.to_bytes(8, "little"), start + BEHIND_CR, start + 1000)
        found = min(start, efer) >= 0 and dr - start > 1000 and size - dr >= 160
        if not found or not {0x175, 0xC000_0082} <= msrs.keys():
            raise HostLacksError(
                "run a guest without KVM",
                "this version of Unicorn keeps its state in another way",
                "install Unicorn 2.1.4 or a later 2.1",
            )
        msrs[0x174] = msrs[0x175] - 8
        raw = (ctypes.c_char * (size - start)).from_address(place + start)
        self.state = CpuState(memoryview(raw).cast("B"), Layout(dr - start, efer - start, msrs))
        for index in msrs:
            self.state.set_msr(index, 0)
        self.state.set_msr(0x277, 0x0007_0406_0007_0406)
        self.state.set_dr(0, 0)
        self.intercept_pause(False)

    def _write(self, register: int, value: ctypes._CData) -> None:
        code = self._library.uc_reg_write(self._handle, register, byref(value))
        unicorn.check(code, f"set up the processor (register {register})")

    def _map_tables(self) -> None:
        """Map the tables that the intercepts read from memory: all model-specific registers."""
        tables = self._tables
        address = ctypes.addressof((ctypes.c_char * len(tables)).from_buffer(tables))
        aligned = (address + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
        start = aligned - address
        bitmap = _CONTROL_GPA + _MSR_PERMISSIONS
        tables[start + _MSRPM_FIELD : start + _MSRPM_FIELD + 8] = bitmap.to_bytes(8, "little")
        at = start + _MSR_PERMISSIONS
        tables[at : at + 2 * PAGE_SIZE] = b"\xff" * (2 * PAGE_SIZE)
        size = _CONTROL_SIZE - PAGE_SIZE
        code = self._library.uc_mem_map_ptr(self._handle, _CONTROL_GPA, size, 3, aligned)
        unicorn.check(code, "set up the processor (tables)")

    def break_at(self, addresses: Sequence[int]) -> None:
        """Have `execute` end with `AtBreakpoint` before the instruction at any of these addresses.

        They are linear; while nothing is under way. `ignores_breaks` has them wait.
        """
        for number in self._breaks:
            code = self._library.uc_hook_del(self._handle, number)
            unicorn.check(code, "clear a breakpoint")
        callback = self._hooks[7]
        self._breaks = [unicorn.hook_at(self._handle, one, callback) for one in addresses]
        self.forget_code()

    def intercept_pause(self, wanted: bool) -> None:
        """Set whether PAUSE ends `execute` as well. Part of the state."""
        mask = _INTERCEPTS | (PAUSE_INTERCEPT if wanted else 0)
        # A page fault comes as such: for an intercept QEMU would not set CR2.
        self.state.intercept(mask, 0xFFFF_FFFF & ~(1 << _PAGE_FAULT), _CONTROL_GPA)

    # -- memory --

    def follow(self, memory: AddressSpace) -> None:
        """Map exactly what `memory` allows now."""
        if memory.generation == self._generation:
            return
        generation = memory.generation
        # What changes once changes again: then only the chunk around it is mapped anew.
        pieces = (
            memory.spans()
            if self._generation is None
            else (piece for span in memory.spans() for piece in span.chunks())
        )
        self._remap({(span.gpa, span.size): span for span in pieces})
        self._generation = generation

    def _remap(self, wanted: dict[tuple[int, int], Span]) -> None:
        """Map what is wanted, and nothing else.

        For each piece that goes Unicorn looks its GPA up as if it were a linear address. Where that
        is a page fault it stays pending, and CR2 is its address: `execute` takes it for none.
        """
        first = self._generation is None
        cr2 = self.load().cr(2) if self._is_executing else 0
        self._map_pieces(wanted)
        if self._is_executing:
            self._has_remapped = True
            self._write(unicorn.REG_CR2, c_uint64(cr2))
        if not first:
            self.forget_translations()
            self._code_is_stale = True
            (self.stop if self._is_executing else self._forget_code)()

    def _map_pieces(self, wanted: dict[tuple[int, int], Span]) -> None:
        library, handle = self._library, self._handle
        for gpa in self._mmio:
            unicorn.check(library.uc_mem_unmap(handle, gpa, PAGE_SIZE), f"unmap {gpa:#x}")
        self._mmio.clear()
        for key, span in list(self._mapped.items()):
            if wanted.get(key) != span:
                unicorn.check(library.uc_mem_unmap(handle, *key), f"unmap guest memory {key}")
                del self._mapped[key]
        for key, span in wanted.items():
            if key not in self._mapped:
                rights = unicorn.PROT_READ | unicorn.PROT_EXEC | span.writable * unicorn.PROT_WRITE
                code = library.uc_mem_map_ptr(handle, span.gpa, span.size, rights, span.address)
                unicorn.check(code, f"map {span.size} bytes of guest memory at {span.gpa:#x}")
                self._mapped[key] = span

    def _forget_code(self) -> None:
        """Drop translated code, but never while a block of it executes: others get linked to it."""
        if self._code_is_stale:
            self._code_is_stale = False
            unicorn.control(self._handle, unicorn.CTL_TB_FLUSH)

    def forget_code(self) -> None:
        """Drop translated code; while nothing is under way."""
        self._code_is_stale = True
        self._forget_code()

    def unmap_all(self) -> None:
        """Leave the guest no memory at all."""
        self._remap({})
        self._generation = None

    def forget_translations(self) -> None:
        """After a change of control registers or of memory: the page tables are walked again."""
        unicorn.control(self._handle, unicorn.CTL_TLB_FLUSH)

    def make_mmio(self, gpa: int) -> None:
        """From now on, until memory changes, accesses to this page are the devices'."""
        page = gpa // PAGE_SIZE * PAGE_SIZE
        if page in self._mmio:
            return
        for key, span in list(self._mapped.items()):
            if span.gpa <= page < span.gpa + span.size:
                self._cut(key, span, page)
        read, write = self._hooks[4], self._hooks[5]
        code = self._library.uc_mmio_map(
            self._handle, page, PAGE_SIZE, read, c_void_p(page), write, c_void_p(page)
        )
        unicorn.check(code, f"map devices at {page:#x}")
        self._mmio.add(page)
        self.forget_translations()

    def _cut(self, key: tuple[int, int], span: Span, page: int) -> None:
        """Take a page out of a span that is mapped."""
        unicorn.check(self._library.uc_mem_unmap(self._handle, *key), f"unmap {key}")
        del self._mapped[key]
        rights = unicorn.PROT_READ | unicorn.PROT_EXEC | span.writable * unicorn.PROT_WRITE
        for start, end in ((span.gpa, page), (page + PAGE_SIZE, span.gpa + span.size)):
            if start < end:
                part = Span(start, end - start, span.address + start - span.gpa, span.writable)
                code = self._library.uc_mem_map_ptr(
                    self._handle, start, part.size, rights, part.address
                )
                unicorn.check(code, f"map guest memory at {start:#x}")
                self._mapped[start, part.size] = part

    # -- running --

    def load(self) -> CpuState:
        """The state as it is now, in between: `execute` goes on from `state`, changed or not."""
        self._library.uc_context_save(self._handle, self._context)
        return self.state

    def restore(self, context: bytes) -> None:
        """Go on from a state that `CpuState.save` gave (`UsageError`: or cannot have given)."""
        from pyvmm.hosts.model.saved_context import take

        self.intercept_pause(take(self._context, self.state, context, PAUSE_INTERCEPT))
        self.forget_translations()
        self.forget_code()

    def has_stored(self) -> None:
        """In the middle of an instruction somebody else has stored, maybe code: stop there."""
        self._code_is_stale = True
        self.stop()

    def execute(self, instructions: int = 0) -> Outcome:
        """Run from `state` on; afterwards `state` is where the guest has come to.

        At most so many instructions; 0: any number.
        """
        if instructions:
            # Blocks that have been translated do not count.
            self._code_is_stale = True
            self._forget_code()
        self._trap = -1
        self.is_stopping = self._has_remapped = False
        self._missed = None
        self._is_at_break = False
        self.state.forget_exception()
        self._library.uc_context_restore(self._handle, self._context)
        self._is_executing = True
        try:
            code = self._library.uc_emu_start(self._handle, self.state.rip, 0, 0, instructions)
        finally:
            self._is_executing = False
        self._forget_code()
        self.load()
        if self._trap >= 0:
            known = self._trap - EXIT if self._trap >= EXIT else EXCEPTION + self._trap
            trap = Trap(known, self.state.error_code)
            if not (self._has_remapped and trap.may_be_false):
                return trap
        return self._reason(code)

    def _reason(self, code: int) -> Outcome:
        if self._missed is not None:
            return self._missed
        if self._is_at_break:
            return AtBreakpoint()
        return Broken(code) if code else Stopped()

    def stop(self) -> None:
        """From any thread, or from a device: end `execute` soon. One that is too early is lost."""
        if not self._closed:
            self.is_stopping = True
            self._library.uc_emu_stop(self._handle)

    def _on_interrupt(self, _engine: int, number: int, _data: int) -> None:
        self._trap = number
        self._library.uc_emu_stop(self._handle)

    def _on_code(self, _engine: int, _address: int, _size: int, _data: int) -> None:
        if not self.ignores_breaks:
            self._is_at_break = True
            self._library.uc_emu_stop(self._handle)

    def _on_syscall(self, _engine: int, _data: int) -> None:
        self._trap = EXIT + SYSCALL
        self._library.uc_emu_stop(self._handle)

    def _on_memory(
        self, _engine: int, kind: int, gpa: int, size: int, _value: int, _data: int
    ) -> bool:
        if self._missed is None:
            write = kind in (unicorn.MEM_WRITE_UNMAPPED, unicorn.MEM_WRITE_PROT)
            fetch = kind in (unicorn.MEM_FETCH_UNMAPPED, unicorn.MEM_FETCH_PROT)
            self._missed = Unreachable(gpa, size, write, fetch)
        return False

    def _on_in(self, _engine: int, port: int, size: int, _data: int) -> int:
        return self._devices.port_in(port & 0xFFFF, size)

    def _on_out(self, _engine: int, port: int, size: int, value: int, _data: int) -> None:
        self._devices.port_out(port & 0xFFFF, size, value)

    def _on_mmio_read(self, _engine: int, offset: int, size: int, page: int | None) -> int:
        return self._devices.mmio_read((page or 0) + offset, size)

    def _on_mmio_write(
        self, _engine: int, offset: int, size: int, value: int, page: int | None
    ) -> None:
        self._devices.mmio_write((page or 0) + offset, size, value)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._library.uc_context_free(self._context)
            self._library.uc_close(self._handle)
