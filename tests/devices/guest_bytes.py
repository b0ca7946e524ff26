# SPDX-License-Identifier: MIT
"""Guest memory for devices' tests: a few bytes from GPA 0 on, and nothing else."""

from __future__ import annotations


class Memory:
    """`pyvmm.devices.fw_cfg.GuestBytes`; `bytes` is all there is."""

    def __init__(self, size: int, fill: int = 0xAA) -> None:
        self.bytes = bytearray([fill]) * size
        self.calls = 0

    def read(self, gpa: int, size: int) -> bytes | None:
        self.calls += 1
        found = self.bytes[gpa : gpa + size]
        return bytes(found) if len(found) == size else None

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        self.calls += 1
        end = min(gpa + len(data), len(self.bytes))
        if gpa < end:
            self.bytes[gpa:end] = bytes(data[: end - gpa])
        return gpa + len(data) <= len(self.bytes)

    def clear(self, gpa: int, size: int) -> bool:
        self.calls += 1
        end = min(gpa + size, len(self.bytes))
        if gpa < end:
            self.bytes[gpa:end] = bytes(end - gpa)
        return gpa + size <= len(self.bytes)
