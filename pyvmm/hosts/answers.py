# SPDX-License-Identifier: MIT
"""Protocol of a vCPU whose exits are answered, before it runs again."""

from __future__ import annotations

from typing import Protocol

from pyvmm.hosts.raw_exits import RawVcpu


class AnsweredVcpu(RawVcpu, Protocol):
    """Answers to the last exit, on the vCPU's thread; raw ones by `RawVcpu.write_run`."""

    def answer(self, data: bytes) -> None:
        """Answer `IoIn` or `MmioRead` with exactly the bytes that it asks for."""
        ...

    def answer_hypercall(self, value: int) -> None:
        """Answer `Hypercall`: what the guest finds in RAX."""
        ...

    def answer_msr(self, value: int, *, fault: bool) -> None:
        """Answer `ReadMsr` or `WriteMsr`; `fault` injects #GP instead."""
        ...
