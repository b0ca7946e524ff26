# SPDX-License-Identifier: MIT
"""A local APIC as far as messages need one (SDM vol. 3A, 11.4 and 11.8). Pure; no locks.

Messages arrive, priorities decide, the guest ends them. Without timer, LVT, logical destinations
and interprocessor interrupts: whoever asks for one of their registers is told so by None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import SavedApic


_ID, _VERSION, _TASK_PRIORITY, _PROCESSOR_PRIORITY = 0x20, 0x30, 0x80, 0xA0
_END, _SPURIOUS = 0xB0, 0xF0
_IN_SERVICE, _TRIGGER, _REQUESTS = 0x100, 0x180, 0x200
_BITS = 0x80
"""Bytes from the first of the eight registers of a 256-bit one to what follows them."""
_ENABLED = 1 << 8
_SPURIOUS_WRITABLE = 0x1FF
_AS_KVM = 0x0005_0014
"""Version 0x14, an integrated APIC with six LVT entries."""
_FIRST_VECTOR = 16


class LocalApic:
    """One vCPU's. Vectors are 16 to 255; all messages are edge-triggered."""

    def __init__(self, index: int) -> None:
        self._id = index << 24
        self._task_priority = 0
        self._spurious = 0xFF
        self._requests = 0
        self._in_service = 0

    def save(self) -> SavedApic:
        """All its state."""
        from pyvmm.hosts.model.saved_values import SavedApic

        return SavedApic(self._task_priority, self._spurious, self._requests, self._in_service)

    def restore(self, saved: SavedApic) -> None:
        """Take what `save` gave."""
        self._task_priority = saved.task_priority
        self._spurious = saved.spurious
        self._requests = saved.requests
        self._in_service = saved.in_service

    @property
    def is_enabled(self) -> bool:
        """True once the guest has set the bit in the spurious-interrupt vector register."""
        return bool(self._spurious & _ENABLED)

    def accept(self, vector: int) -> None:
        """Take a message; one for an APIC that is off, or with a reserved vector, is lost."""
        if self.is_enabled and vector >= _FIRST_VECTOR:
            self._requests |= 1 << vector

    @property
    def _priority(self) -> int:
        """The processor priority: nothing of its class or below is delivered."""
        served = self._in_service.bit_length() - 1 & 0xF0 if self._in_service else 0
        return max(self._task_priority, served)

    @property
    def waiting(self) -> int | None:
        """The vector to be delivered next; None: there is none, or its priority is too low."""
        vector = self._requests.bit_length() - 1
        return vector if vector >> 4 > self._priority >> 4 else None

    def acknowledge(self) -> int | None:
        """Take the vector to be delivered: it is in service from now on."""
        vector = self.waiting
        if vector is not None:
            self._requests &= ~(1 << vector)
            self._in_service |= 1 << vector
        return vector

    def read(self, offset: int) -> int | None:
        """Read the register at byte `offset` of the page; None: there is no such register."""
        for first, bits in (
            (_IN_SERVICE, self._in_service),
            (_TRIGGER, 0),
            (_REQUESTS, self._requests),
        ):
            if first <= offset < first + _BITS:
                return bits >> (offset - first) // 16 * 32 & 0xFFFF_FFFF
        return {
            _ID: self._id,
            _VERSION: _AS_KVM,
            _TASK_PRIORITY: self._task_priority,
            _PROCESSOR_PRIORITY: self._priority,
            _END: 0,
            _SPURIOUS: self._spurious,
        }.get(offset)

    def write(self, offset: int, value: int) -> bool:
        """Write a register, read-only ones without effect; False: there is no such register."""
        match offset:
            case 0x80:
                self._task_priority = value & 0xFF
            case 0xB0:
                self._in_service &= ~(1 << self._in_service.bit_length() >> 1)
            case 0xF0:
                self._spurious = value & _SPURIOUS_WRITABLE
            case _:
                return self.read(offset) is not None
        return True
