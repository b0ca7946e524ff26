# SPDX-License-Identifier: MIT
"""The structure that a vCPU and the kernel share, ``struct kvm_run`` (api.rst 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.kvm.binding import CData, ffi
from pyvmm.hosts.kvm.register_codec import (
    decode_regs,
    decode_sregs,
    encode_regs,
    encode_sregs,
)
from pyvmm.hosts.kvm.vcpu_state import VcpuState

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.vcpu_values import SyncedRegs, SyncRegs


class RunStructure(VcpuState):
    """A vCPU with the mapping of its fd; belongs to one thread."""

    index: int
    _mapped: tuple[int, int]
    _run_structure: CData
    _synced = 0

    def enable_sync(self, registers: SyncRegs) -> None:
        """Let each exit leave these in shared memory, for `synced` (KVM_CAP_SYNC_REGS, api.rst 5).

        The capability's value is the mask of those that the host has.
        """
        self._synced = int(registers)
        self._shared().kvm_valid_regs = self._synced

    def synced(self) -> SyncedRegs:
        """Read the registers that the last exit left, without a system call."""
        from pyvmm.hosts.kvm.vcpu_codec import decode_events
        from pyvmm.hosts.kvm.vcpu_values import SyncedRegs, SyncRegs

        run = self._shared()
        valid, regs = SyncRegs(self._synced), run.s.regs
        return SyncedRegs(
            decode_regs(regs.regs) if valid & SyncRegs.REGS else None,
            decode_sregs(regs.sregs) if valid & SyncRegs.SREGS else None,
            decode_events(regs.events) if valid & SyncRegs.EVENTS else None,
        )

    def put_synced(self, values: SyncedRegs) -> None:
        """Let the next `run` set what is not None before it enters the guest."""
        from pyvmm.hosts.kvm.vcpu_codec import encode_events
        from pyvmm.hosts.kvm.vcpu_values import SyncRegs

        run = self._shared()
        dirty = SyncRegs(run.kvm_dirty_regs)
        if values.regs is not None:
            encode_regs(values.regs, run.s.regs.regs)
            dirty |= SyncRegs.REGS
        if values.sregs is not None:
            encode_sregs(values.sregs, run.s.regs.sregs)
            dirty |= SyncRegs.SREGS
        if values.events is not None:
            encode_events(values.events, run.s.regs.events)
            dirty |= SyncRegs.EVENTS
        run.kvm_dirty_regs = int(dirty)

    def request_interrupt_window(self, wanted: bool) -> None:
        """Make `run` return `IrqWindowOpen` once the guest can take an interrupt (api.rst 5)."""
        self._shared().request_interrupt_window = int(wanted)

    def can_take_interrupt(self) -> bool:
        """Tell whether `interrupt` would be accepted now, as of the last exit (api.rst 5)."""
        return bool(self._shared().ready_for_interrupt_injection)

    def _shared(self) -> CData:
        """The ``struct kvm_run``. Raises `InternalError` once closed: it is unmapped then."""
        if self.fd < 0:
            raise InternalError(f"use vCPU {self.index}", "it has been closed")
        return self._run_structure

    def read_run(self) -> bytes:
        """All that is mapped of the vCPU's fd as the last exit left it, `struct kvm_run` first.

        For exits that are not known here (`hosts.raw_exits`). Raises `InternalError` once closed.
        """
        self._shared()
        return bytes(self._run_memory())

    def write_run(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset` of that, in bytes: an answer to an exit that is not known here.

        Nothing looks at it before the kernel does. Raises `UsageError` outside of it,
        `InternalError` once closed.
        """
        self._shared()
        size = self._mapped[1]
        if not 0 <= offset <= size - len(data):
            raise UsageError(
                f"write {len(data)} bytes at offset {offset} of vCPU {self.index}'s run structure",
                f"it has {size} bytes",
            )
        self._run_memory()[offset : offset + len(data)] = data

    def _run_memory(self) -> CData:
        hva, size = self._mapped
        return ffi.buffer(ffi.cast("char *", hva), size)
