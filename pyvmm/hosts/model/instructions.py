# SPDX-License-Identifier: MIT
"""Effects of intercepted instructions: CPUID, RDMSR, WRMSR, hypercalls, software interrupts."""

from __future__ import annotations

from dataclasses import replace

from pyvmm.hosts import exits
from pyvmm.hosts.model.cpu_state import HF_INHIBIT_IRQ, CpuState
from pyvmm.hosts.model.exceptions import (
    BREAKPOINT,
    DEBUG,
    OVERFLOW,
    Event,
    Source,
)
from pyvmm.hosts.registers import Efer, Segment
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE, PAGE_SIZE

HYPERCALLS = (b"\x0f\x01\xc1", b"\x0f\x01\xd9")
"""VMCALL and VMMCALL."""
POLL_IRQ = 1
ENOSYS = -1000
EINVAL = -22
EPERM = -1
_EMULATION_FAILED = 1
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_MASK = (1 << 64) - 1
_RF = 1 << 16

RAX, RCX, RDX, RBX, RSI = 0, 1, 2, 3, 6


def opcode_offset(code: bytes, *, long: bool) -> int:
    """Count the bytes of prefixes that `code` begins with."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    if long and at < len(code) and code[at] & 0xF0 == 0x40:
        at += 1
    return at


def skip(state: CpuState, code: bytes, opcode_size: int) -> None:
    """Go on behind the instruction that `code` begins with."""
    rip = state.rip + opcode_offset(code, long=state.is_long) + opcode_size
    state.rip = rip & (_MASK if state.is_long else 0xFFFF_FFFF)
    state.hflags &= ~HF_INHIBIT_IRQ


def software_interrupt(state: CpuState, code: bytes) -> Event:
    """Return the event that INT n, INT3, INTO or INT1 raises."""
    at = opcode_offset(code, long=state.is_long)
    opcode = code[at : at + 2]
    match opcode[:1]:
        case b"\xcc":
            return Event(BREAKPOINT, source=Source.SOFTWARE, length=at + 1)
        case b"\xce":
            return Event(OVERFLOW, source=Source.SOFTWARE, length=at + 1)
        case b"\xf1":
            return Event(DEBUG, length=at + 1)
        case _:
            vector = opcode[1] if len(opcode) > 1 else DEBUG
            return Event(vector, source=Source.SOFTWARE, length=at + 2)


def syscall(state: CpuState) -> bool:
    """SYSCALL in long mode (APM vol. 3), RIP behind it; False: it is not enabled."""
    if not state.efer & Efer.SCE or not state.efer & Efer.LMA:
        state.rip -= 2
        return False
    star = state.msr(0xC000_0081) or 0
    target = state.msr(0xC000_0082 if state.is_long else 0xC000_0083) or 0
    mask = state.msr(0xC000_0084) or 0
    flags = state.rflags
    state.set_register(RCX, state.rip)
    state.set_register(11, flags & ~_RF)
    flat = Segment(limit=0xFFFF_FFFF, present=1, s=1, g=1)
    selector = star >> 32 & 0xFFFC
    state.set_segment("ss", replace(flat, selector=selector + 8, type=3, db=1))
    state.set_segment("cs", replace(flat, selector=selector, type=11, l=1))
    state.rip = target
    state.rflags = flags & ~(mask & 0xFFFF_FFFF | _RF)
    return True


def set_pair(state: CpuState, value: int) -> None:
    """EDX:EAX, as RDMSR gives it."""
    state.set_register(RAX, value & 0xFFFF_FFFF)
    state.set_register(RDX, value >> 32 & 0xFFFF_FFFF)


def hypercall_arguments(state: CpuState) -> tuple[int, tuple[int, int, int]]:
    """Number and the arguments that count (``____kvm_emulate_hypercall``)."""
    mask = _MASK if state.is_long else 0xFFFF_FFFF
    number, *rest = (state.register(name) & mask for name in (RAX, RBX, RCX, RDX))
    return number, (rest[0], rest[1], rest[2])


def answer_at_once(
    number: int, arguments: tuple[int, int, int], cpl: int, exits: int
) -> int | None:
    """KVM's own answer to a hypercall; None: it goes to the monitor."""
    if cpl:
        return EPERM
    if number == POLL_IRQ:
        return 0
    if number != KVM_HC_MAP_GPA_RANGE or not exits >> KVM_HC_MAP_GPA_RANGE & 1:
        return ENOSYS
    gpa, pages, _ = arguments
    frame = gpa // PAGE_SIZE
    if gpa % PAGE_SIZE or not pages or (frame + pages) & _MASK <= frame:
        return EINVAL
    return None


def emulation_failed(code: bytes) -> exits.KvmInternalError:
    """Make the exit for an instruction that cannot be executed, with its bytes, as KVM does."""
    size = len(code).to_bytes(1, "little")
    padded = (size + code).ljust(16, b"\x90")
    words = (int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:], "little"))
    return exits.KvmInternalError(_EMULATION_FAILED, (1, *words))
