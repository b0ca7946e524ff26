# SPDX-License-Identifier: MIT
"""Exceptions and interrupts on their way to the guest's handlers (SDM vol. 3A, 6).

Unicorn stops where one arises and delivers none, so this does what the processor would: through
the IDT in protected and long mode, through the vectors in real mode, onto the stack that the TSS
says; and what goes wrong on the way becomes the next exception, up to the triple fault.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from dataclasses import dataclass

from pyvmm.hosts.model.cpu_state import HF_INHIBIT_IRQ, CpuState
from pyvmm.hosts.model.guest_memory_access import PAGE_FAULT, GuestFaultError, GuestMemoryAccess
from pyvmm.hosts.registers import Cr0, Efer, Segment

DOUBLE_FAULT = 8
INVALID_TSS = 10
NOT_PRESENT = 11
STACK_FAULT = 12
GENERAL_PROTECTION = 13
INVALID_OPCODE = 6
DEBUG = 1
BREAKPOINT = 3
OVERFLOW = 4

_CONTRIBUTORY = frozenset({0, INVALID_TSS, NOT_PRESENT, STACK_FAULT, GENERAL_PROTECTION})
WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
_TRAPS = frozenset({DEBUG, BREAKPOINT, OVERFLOW, DOUBLE_FAULT})

_TF, _IF, _NT, _RF, _VM, _AC = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17, 1 << 18
_RSP = 4
_IDT_ENTRY = 2
_EXTERNAL = 1


class Source(enum.Enum):
    """Source of a vector."""

    EXCEPTION = enum.auto()
    SOFTWARE = enum.auto()
    """INT n, INT3, INTO: the gate's privilege level counts."""
    EXTERNAL = enum.auto()


@dataclass(frozen=True, slots=True)
class Event:
    """Something to be delivered. `length`: of the instruction to go on after, with SOFTWARE."""

    vector: int
    error_code: int | None = None
    source: Source = Source.EXCEPTION
    length: int = 0


class TaskGateError(Exception):
    """The guest asks for a task switch, which nothing here makes."""


def deliver(state: CpuState, memory: GuestMemoryAccess, event: Event) -> bool:
    """Take the processor to the handler of `event`; False: it shuts down instead (triple fault).

    Raises `NotMemoryError` and `TaskGateError` for what this cannot do; `state` is then as it was.
    """
    while True:
        try:
            _Delivery(state, memory, event).run()
        except GuestFaultError as fault:
            following = _after(event, fault)
            if following is None:
                return False
            if fault.vector == PAGE_FAULT and fault.address is not None:
                state.set_cr(2, fault.address)
            event = following
        else:
            return True


def _after(event: Event, fault: GuestFaultError) -> Event | None:
    """Combine `event` and a fault while delivering it (SDM vol. 3A, table 6-5); None: shutdown."""
    first, second = event.vector, fault.vector
    if event.source is Source.EXCEPTION:
        severe = second in _CONTRIBUTORY or second == PAGE_FAULT
        if first == DOUBLE_FAULT and severe:
            return None
        if (first in _CONTRIBUTORY and second in _CONTRIBUTORY) or (first == PAGE_FAULT and severe):
            return Event(DOUBLE_FAULT, 0)
    return Event(second, fault.error_code)


class _Delivery:
    def __init__(self, state: CpuState, memory: GuestMemoryAccess, event: Event) -> None:
        self._state = state
        self._memory = memory
        self._event = event
        self._external = 0 if event.source is Source.SOFTWARE else _EXTERNAL
        self._long = bool(state.efer & Efer.LMA)

    def run(self) -> None:
        """Deliver. Raises `GuestFaultError`; the state is then as it was."""
        if not self._state.cr(0) & Cr0.PE:
            self._real()
            return
        self._protected()

    def _gate_error(self) -> int:
        return self._event.vector * 8 | _IDT_ENTRY | self._external

    def _pushed_flags(self) -> int:
        flags = self._state.rflags
        event = self._event
        if event.source is Source.EXCEPTION and event.vector not in _TRAPS:
            return flags | _RF
        return flags & ~_RF

    def _return_rip(self) -> int:
        return self._state.rip + self._event.length

    # -- real mode --

    def _real(self) -> None:
        state, event = self._state, self._event
        if event.vector * 4 + 3 > state.idt.limit:
            raise GuestFaultError(GENERAL_PROTECTION, 0)
        offset, selector = struct.unpack(
            "<HH", self._memory.read(state.idt.base + event.vector * 4, 4)
        )
        sp = state.register(_RSP)
        values = (state.rflags, state.segment("cs").selector, self._return_rip())
        for number, value in enumerate(values, 1):
            at = state.base_of("ss") + (sp - 2 * number & 0xFFFF)
            self._memory.write(at, (value & 0xFFFF).to_bytes(2, "little"))
        state.set_register(_RSP, sp & ~0xFFFF | sp - 6 & 0xFFFF)
        cs = dataclasses.replace(state.segment("cs"), selector=selector, base=selector << 4)
        state.set_segment("cs", cs)
        state.rip = offset
        state.hflags &= ~HF_INHIBIT_IRQ
        state.rflags = state.rflags & ~(_IF | _TF | _AC | _RF)

    # -- protected and long mode --

    def _protected(self) -> None:
        state, event = self._state, self._event
        size = 16 if self._long else 8
        if event.vector * size + size - 1 > state.idt.limit:
            raise GuestFaultError(GENERAL_PROTECTION, self._gate_error())
        raw = self._memory.read(state.idt.base + event.vector * size, size)
        low, high = struct.unpack_from("<II", raw)
        kind = high >> 8 & 31
        if kind == 5 and not self._long:
            raise TaskGateError
        if kind not in ((14, 15) if self._long else (6, 7, 14, 15)):
            raise GuestFaultError(GENERAL_PROTECTION, self._gate_error())
        if event.source is Source.SOFTWARE and high >> 13 & 3 < state.cpl:
            raise GuestFaultError(GENERAL_PROTECTION, self._gate_error())
        if not high >> 15 & 1:
            raise GuestFaultError(NOT_PRESENT, self._gate_error())
        wide = kind >= 14
        offset = low & 0xFFFF | (high & 0xFFFF_0000 if wide else 0)
        if self._long:
            offset |= struct.unpack_from("<I", raw, 8)[0] << 32
        cs = self._code_segment(low >> 16)
        stack_index = high & 7 if self._long else 0
        self._enter(cs, offset, stack_index, wide=wide, keep_if=bool(kind & 1))

    def _descriptor(self, selector: int, vector: int) -> Segment:
        """A segment from the GDT or LDT. Raises `vector` where there is none."""
        state = self._state
        error = selector & ~3 | self._external
        table = state.gdt
        base, limit = table.base, table.limit
        if selector & 4:
            ldt = state.segment("ldt")
            base, limit = ldt.base, ldt.limit
        if (selector & ~7) + 7 > limit:
            raise GuestFaultError(vector, error)
        raw = self._memory.read(base + (selector & ~7), 8)
        return decode_descriptor(raw, selector)

    def _code_segment(self, selector: int) -> Segment:
        if not selector & ~3:
            raise GuestFaultError(GENERAL_PROTECTION, self._external)
        error = selector & ~3 | self._external
        cs = self._descriptor(selector, GENERAL_PROTECTION)
        if not cs.s or not cs.type & 8 or cs.dpl > self._state.cpl:
            raise GuestFaultError(GENERAL_PROTECTION, error)
        if not cs.present:
            raise GuestFaultError(NOT_PRESENT, error)
        if self._long and (not cs.l or cs.db):
            raise GuestFaultError(GENERAL_PROTECTION, error)
        level = self._state.cpl if cs.type & 4 else cs.dpl
        return dataclasses.replace(cs, selector=selector & ~3 | level, type=cs.type | 1)

    def _enter(self, cs: Segment, offset: int, stack: int, *, wide: bool, keep_if: bool) -> None:
        state = self._state
        level = cs.selector & 3
        inner = level < state.cpl
        ss, rsp = self._stack(level, inner, stack)
        frame = [self._pushed_flags(), state.segment("cs").selector, self._return_rip()]
        if inner or self._long:
            frame[:0] = [state.segment("ss").selector, state.register(_RSP)]
        if self._event.error_code is not None:
            frame.append(self._event.error_code)
        top = self._push(frame, ss, rsp, wide=wide, user=level == 3)
        # Nothing can fail any more.
        state.set_register(_RSP, top)
        if inner:
            state.set_segment("ss", ss)
        state.set_segment("cs", cs)
        state.rip = offset
        state.hflags &= ~HF_INHIBIT_IRQ
        state.rflags = state.rflags & ~(_TF | _NT | _RF | _VM | (0 if keep_if else _IF))

    def _stack(self, level: int, inner: bool, index: int) -> tuple[Segment, int]:
        """The stack segment and pointer that the handler begins with."""
        state = self._state
        if self._long:
            ss = state.segment("ss")
            if inner:
                ss = Segment(selector=level, type=3, present=1, dpl=level, s=1, db=1)
            if index:
                rsp = self._from_task(0x24 + 8 * (index - 1), 8)
            elif inner:
                rsp = self._from_task(4 + 8 * level, 8)
            else:
                rsp = state.register(_RSP)
            return ss, rsp & ~15
        if not inner:
            return state.segment("ss"), state.register(_RSP)
        if not state.segment("tr").type & 8:
            raise TaskGateError  # a 16-bit TSS: nobody has one
        rsp = self._from_task(4 + 8 * level, 4)
        return self._stack_segment(self._from_task(8 + 8 * level, 2), level), rsp

    def _stack_segment(self, selector: int, level: int) -> Segment:
        error = selector & ~3 | self._external
        if not selector & ~3:
            raise GuestFaultError(INVALID_TSS, error)
        ss = self._descriptor(selector, INVALID_TSS)
        if not ss.s or ss.type & 10 != 2 or ss.dpl != level or selector & 3 != level:
            raise GuestFaultError(INVALID_TSS, error)
        if not ss.present:
            raise GuestFaultError(STACK_FAULT, error)
        return ss

    def _from_task(self, offset: int, size: int) -> int:
        task = self._state.segment("tr")
        if offset + size - 1 > task.limit:
            raise GuestFaultError(INVALID_TSS, task.selector & ~3 | self._external)
        return int.from_bytes(self._memory.read(task.base + offset, size), "little")

    def _push(self, frame: list[int], ss: Segment, rsp: int, *, wide: bool, user: bool) -> int:
        """Write a frame, first value at the highest address; the stack pointer after it."""
        if self._long:
            if not is_canonical(rsp - 8 * len(frame)):
                raise GuestFaultError(STACK_FAULT, self._external)
            data = b"".join((value & (1 << 64) - 1).to_bytes(8, "little") for value in frame[::-1])
            self._memory.write(rsp - len(data), data, user=user)
            return rsp - len(data)
        size = 4 if wide else 2
        mask = 0xFFFF_FFFF if ss.db else 0xFFFF
        data = b"".join(
            (value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in frame[::-1]
        )
        top = rsp - len(data) & mask
        self._memory.write(ss.base + top & 0xFFFF_FFFF, data, user=user)
        return rsp & ~mask | top


def is_canonical(linear: int) -> bool:
    """Tell whether bits 63 to 47 are all the same."""
    return (linear & (1 << 64) - 1) >> 47 in (0, 0x1FFFF)


def decode_descriptor(raw: bytes, selector: int) -> Segment:
    """A segment descriptor of 8 bytes (SDM vol. 3A, 3.4.5)."""
    low, high = struct.unpack("<II", raw)
    limit = low & 0xFFFF | high & 0xF_0000
    if high >> 23 & 1:
        limit = limit << 12 | 0xFFF
    return Segment(
        base=low >> 16 | (high & 0xFF) << 16 | high & 0xFF00_0000,
        limit=limit,
        selector=selector,
        type=high >> 8 & 15,
        s=high >> 12 & 1,
        dpl=high >> 13 & 3,
        present=high >> 15 & 1,
        avl=high >> 20 & 1,
        l=high >> 21 & 1,
        db=high >> 22 & 1,
        g=high >> 23 & 1,
    )
