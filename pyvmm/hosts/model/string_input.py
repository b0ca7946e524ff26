# SPDX-License-Identifier: MIT
"""INS and REP INS: one exit for many elements, as KVM's instruction emulator reads ahead.

What is read is what ``pio_in_emulated`` asks for (arch/x86/kvm/emulate.c): as many elements as RCX
says, as fit into 1024 bytes, and as there are *bytes* from RDI to the end of its page, or to the
beginning where it counts down. OUTS has an exit for each element, on KVM too (``em_out``).

Unicorn would ask for one element at a time. So the whole of an answer is stored here, and the
engine stops in the middle of the instruction; `finish` then says how far it has come.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.model import instructions
from pyvmm.hosts.model.cpu_state import CpuState
from pyvmm.hosts.model.engine import Engine
from pyvmm.hosts.model.guest_memory_access import (
    GuestFaultError,
    GuestMemoryAccess,
    NotMemoryError,
)
from pyvmm.rules.abi import PAGE_SIZE

_READ_AHEAD = 1024
"""Bytes: ``struct read_cache``."""
_INS = (b"\x6c", b"\x6d")
_REPEAT = frozenset(b"\xf2\xf3")
_ADDRESS_SIZE = 0x67
_CODE_SIZE = 15
_RCX, _RDI = instructions.RCX, 7


@dataclass(frozen=True, slots=True)
class Batch:
    """Batch that one INS or REP INS reads at once: `count` elements of `size` bytes.

    `bits` is its size of addresses, `code` the bytes at RIP.
    """

    size: int
    count: int
    bits: int
    repeats: bool
    backward: bool
    code: bytes


@dataclass(frozen=True, slots=True)
class _End:
    """RIP, RCX and RDI after a batch; `done`: the instruction's bytes, where it is finished."""

    rip: int
    rcx: int
    rdi: int
    done: bytes | None


def _address_bits(prefixes: bytes, state: CpuState) -> int:
    other = _ADDRESS_SIZE in prefixes
    if state.is_long:
        return 32 if other else 64
    return 16 if state.is_code_32 == other else 32


def elements(size: int, rcx: int, rdi: int, *, bits: int, backward: bool) -> int:
    """Compute the number of elements of `size` bytes that REP INS asks for at once."""
    asked = rcx & (1 << bits) - 1 & 0xFFFF_FFFF
    in_page = rdi % PAGE_SIZE if backward else PAGE_SIZE - rdi % PAGE_SIZE
    return max(1, min(asked, in_page, _READ_AHEAD // size))


class StringInput:
    """The string input of one vCPU."""

    def __init__(self, engine: Engine, memory: GuestMemoryAccess) -> None:
        self._engine = engine
        self._memory = memory
        self._end: _End | None = None

    def batch(self, size: int) -> Batch | None:
        """Decode the batch that the instruction under way reads from a port; None: it is no INS."""
        # The instruction's own address and count are in the state: QEMU stores them before it
        # looks whether the port's access is intercepted.
        state = self._engine.load()
        code = self._memory.code(_CODE_SIZE)
        at = instructions.opcode_offset(code, long=state.is_long)
        if code[at : at + 1] not in _INS:
            return None
        prefixes = code[:at]
        bits, repeats = _address_bits(prefixes, state), bool(_REPEAT & set(prefixes))
        backward = state.counts_down
        rcx, rdi = state.register(_RCX), state.register(_RDI)
        count = elements(size, rcx, rdi, bits=bits, backward=backward) if repeats else 1
        return Batch(size, count, bits, repeats, backward, code)

    def store(self, batch: Batch, answer: bytes) -> None:
        """Store what was read, and stop the engine.

        Where the guest may not store it, or there is no memory, nothing is done: Unicorn goes on
        with the first element, and the guest asks for the others again, as on KVM.
        """
        state = self._engine.load()
        size, last = batch.size, batch.count - 1
        start = state.register(_RDI) & (1 << batch.bits) - 1
        if batch.backward:
            start -= size * last
            answer = b"".join(answer[at : at + size] for at in range(size * last, -1, -size))
        if not state.is_long:
            start = start + state.base_of("es") & 0xFFFF_FFFF
        try:
            self._memory.write(start, answer, user=state.cpl == 3)
        except (GuestFaultError, NotMemoryError):
            return
        self._end = self._behind(batch, state)
        self._engine.has_stored()

    @staticmethod
    def _behind(batch: Batch, state: CpuState) -> _End:
        """Compute the guest's registers once all of `batch` has been read."""
        by = -batch.size if batch.backward else batch.size
        rdi = _moved(state.register(_RDI), by * batch.count, batch.bits)
        rcx = state.register(_RCX)
        if batch.repeats:
            rcx = _moved(rcx, -batch.count, batch.bits)
        goes_on = batch.repeats and bool(rcx & (1 << batch.bits) - 1)
        return _End(state.rip, rcx, rdi, None if goes_on else batch.code)

    def finish(self) -> None:
        """The engine has stopped: let the guest be behind what has been read."""
        end, self._end = self._end, None
        if end is None:
            return
        state = self._engine.state
        state.set_register(_RCX, end.rcx)
        state.set_register(_RDI, end.rdi)
        state.rip = end.rip
        if end.done is not None:
            instructions.skip(state, end.done, 1)


def _moved(register: int, by: int, bits: int) -> int:
    """A register after an instruction with addresses of `bits` has added `by` to it."""
    mask = (1 << bits) - 1
    kept = register & ~mask if bits == 16 else 0
    return kept | (register + by & mask)
