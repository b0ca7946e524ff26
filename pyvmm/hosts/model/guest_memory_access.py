# SPDX-License-Identifier: MIT
"""Guest memory as the processor itself reads and writes it: tables, stacks, instructions.

Physical accesses go to the spans of an `AddressSpace` and nowhere else; linear ones through the
guest's page tables (SDM vol. 3A, 4).
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterator

from pyvmm.hosts.model.address_space import AddressSpace, Span
from pyvmm.hosts.model.cpu_state import CpuState
from pyvmm.hosts.registers import Cr0, Cr4, Efer
from pyvmm.rules.abi import PAGE_SIZE

PAGE_FAULT = 14

_PRESENT = 1
_WRITABLE = 2
_USER = 4
_LARGE = 1 << 7
_NO_EXECUTE = 1 << 63
_ADDRESS = 0x000F_FFFF_FFFF_F000
_PSE = 1 << 4


class GuestFaultError(Exception):
    """An exception of the processor, in the course of an access or of a delivery."""

    def __init__(self, vector: int, error_code: int | None = None, address: int | None = None):
        super().__init__(vector, error_code, address)
        self.vector = vector
        self.error_code = error_code
        self.address = address


class NotMemoryError(Exception):
    """The processor itself would have to read or write at `gpa`, where no span is."""

    def __init__(self, gpa: int, write: bool) -> None:
        super().__init__(gpa, write)
        self.gpa = gpa
        self.write = write


class GuestMemoryAccess:
    """Accesses on behalf of a processor whose state is `state`."""

    def __init__(self, memory: AddressSpace, state: CpuState) -> None:
        self._memory = memory
        self._state = state

    # -- physical --

    def _span(self, gpa: int, write: bool) -> Span:
        spans = self._memory.spans()
        index = bisect_right(spans, gpa, key=lambda span: span.gpa) - 1
        if index >= 0:
            span = spans[index]
            if gpa < span.gpa + span.size and (span.writable or not write):
                return span
        raise NotMemoryError(gpa, write)

    def read_physical(self, gpa: int, size: int) -> bytes:
        """Bytes within one page. Raises `NotMemoryError`."""
        span = self._span(gpa, False)
        return ctypes.string_at(span.address + gpa - span.gpa, size)

    def write_physical(self, gpa: int, data: bytes) -> None:
        """The same, written."""
        span = self._span(gpa, True)
        ctypes.memmove(span.address + gpa - span.gpa, data, len(data))

    # -- linear --

    def read(self, linear: int, size: int, *, user: bool = False) -> bytes:
        """Bytes at a linear address. Raises `GuestFaultError` (#PF), `NotMemoryError`."""
        return b"".join(
            self.read_physical(self.resolve(at, write=False, user=user), length)
            for at, length in _pages(linear, size)
        )

    def write(self, linear: int, data: bytes, *, user: bool = False) -> None:
        """Write them, all or nothing. Raises the same."""
        parts = [
            (self.resolve(at, write=True, user=user), length)
            for at, length in _pages(linear, len(data))
        ]
        for gpa, _ in parts:
            self._span(gpa, True)
        done = 0
        for gpa, length in parts:
            self.write_physical(gpa, data[done : done + length])
            done += length

    def resolve(self, linear: int, *, write: bool, user: bool) -> int:
        """The GPA of a linear address. Raises `GuestFaultError` (#PF) where it is not allowed."""
        state = self._state
        if not state.cr(0) & Cr0.PG:
            return linear & 0xFFFF_FFFF
        code = write << 1 | user << 2
        rights = _WRITABLE | _USER
        for entry, shift in self._walk(linear):
            if entry is None:
                raise GuestFaultError(PAGE_FAULT, code, linear)
            rights &= entry
            if shift:
                break
        if (user and not rights & _USER) or (
            write and not rights & _WRITABLE and (user or state.cr(0) & Cr0.WP)
        ):
            raise GuestFaultError(PAGE_FAULT, code | 1, linear)
        return self._frame(entry or 0, shift) | linear & (1 << shift) - 1

    @staticmethod
    def _frame(entry: int, shift: int) -> int:
        return entry & _ADDRESS & ~((1 << shift) - 1)

    def _walk(self, linear: int) -> Iterator[tuple[int | None, int]]:
        """Entries from the top; with the last one the size of its page, as a power of two.

        None stands for an entry that is not present.
        """
        state = self._state
        long = bool(state.efer & Efer.LMA)
        levels: tuple[int, ...] = (22, 12)
        bits, size = 10, 4
        if long:
            levels = (48, 39, 30, 21, 12) if state.cr(4) & Cr4.LA57 else (39, 30, 21, 12)
        elif state.cr(4) & Cr4.PAE:
            levels = (30, 21, 12)
        if state.cr(4) & Cr4.PAE:
            bits, size = 9, 8
        table = state.cr(3) & (_ADDRESS if long else 0xFFFF_FFE0 if size == 8 else 0xFFFF_F000)
        for level in levels:
            index = linear >> level & (1 << bits) - 1
            raw = self.read_physical(table + index * size, size)
            entry = int.from_bytes(raw, "little")
            if not entry & _PRESENT:
                yield None, 0
                return
            pointer = level == 30 and not long  # no rights in it
            can_be_large = level <= 30 and not pointer and (size == 8 or state.cr(4) & _PSE)
            last = level == 12 or bool(can_be_large and entry & _LARGE)
            yield entry | (_WRITABLE | _USER if pointer else 0), level if last else 0
            if last:
                return
            table = entry & _ADDRESS

    def translate(self, linear: int) -> int | None:
        """The GPA of a linear address, whatever its rights; None if unmapped."""
        if not self._state.cr(0) & Cr0.PG:
            return linear & 0xFFFF_FFFF
        try:
            for entry, shift in self._walk(linear):
                if entry is None:
                    return None
                if shift:
                    return self._frame(entry, shift) | linear & (1 << shift) - 1
        except NotMemoryError:
            pass
        return None

    def code(self, size: int) -> bytes:
        """As many bytes of code from the next instruction on as can be read, at most `size`."""
        found = b""
        linear = self._state.linear_rip
        try:
            for at, length in _pages(linear, size):
                found += self.read(at, length)
        except (GuestFaultError, NotMemoryError):
            pass
        return found


def _pages(linear: int, size: int) -> Iterator[tuple[int, int]]:
    """[linear, linear + size) in parts that each lie in one page."""
    while size:
        length = min(size, PAGE_SIZE - linear % PAGE_SIZE)
        yield linear, length
        linear, size = linear + length, size - length
