# SPDX-License-Identifier: MIT
"""Guest memory for devices' tests: a few bytes from GPA 0 on, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Memory:
    """`pyvmm.devices.fw_cfg.GuestBytes`; `bytes` is all there is."""

    def __init__(self, size: int, fill: int = 0xAA) -> None:
        self.bytes = bytearray([fill]) * size
        self.calls = 0

    def _has(self, gpa: int, size: int) -> bool:
        self.calls += 1
        assert size > 0
        return gpa + size <= len(self.bytes)

    def read(self, gpa: int, size: int) -> bytes | None:
        return bytes(self.bytes[gpa : gpa + size]) if self._has(gpa, size) else None

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        if not self._has(gpa, len(data)):
            return False
        self.bytes[gpa : gpa + len(data)] = bytes(data)
        return True

    @contextmanager
    def held(self, gpa: int, size: int) -> Iterator[Held | None]:
        yield Held(self.bytes, gpa, size) if self._has(gpa, size) else None


class Held:
    """`pyvmm.devices.fw_cfg.HeldBytes`."""

    def __init__(self, memory: bytearray, gpa: int, size: int) -> None:
        self._memory = memory
        self._gpa = gpa
        self._size = size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert 0 <= offset < offset + len(data) <= self._size
        self._memory[self._gpa + offset : self._gpa + offset + len(data)] = bytes(data)

    def clear(self, offset: int, size: int) -> None:
        self.write(offset, bytes(size))
