# SPDX-License-Identifier: MIT
"""A vCPU: running it, answering its exits, kicking it."""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.exits import Exit, ExitRecord
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import CData, check, ffi, lib, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.constants import EXIT_NAMES
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.kvm.exits import code_cache, decode
from pyvmm.hosts.kvm.ioctls import FdKind
from pyvmm.hosts.kvm.posted import PostedRing
from pyvmm.hosts.kvm.run_structure import RunStructure
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.kvm.breakpoints import Breakpoints
    from pyvmm.hosts.kvm.coalesced import CoalescedWrite
    from pyvmm.hosts.kvm.dirty_ring import DirtyRing
    from pyvmm.hosts.kvm.saved_values import KvmSavedVcpu
    from pyvmm.hosts.kvm.saved_vcpu import VcpuLike
    from pyvmm.hosts.kvm.saving import Kind, Saving
    from pyvmm.hosts.kvm.stats import Stats
    from pyvmm.hosts.saved_state import SavedVcpu

_MAP_SHARED = 1
_THREAD_CLOCK = 6
"""A thread's clock of processor time, CPUCLOCK_SCHED (``linux/posix-timers_types.h``)."""


class Vcpu(RunStructure):
    """One vCPU, made by `Vm.create_vcpu`. Everything but `kick` belongs to one thread.

    The KVM_RUN loop is C (run.c) and runs without the interpreter lock.
    """

    WHAT = "vCPU"

    def __init__(
        self,
        fd: int,
        index: int,
        run_size: int,
        posted: PostedRing,
        conversions: FastConversions,
        *,
        host_cpuid: Callable[[int], CData],
        dirty_ring_size: int = 0,
        finish_hypercalls: bool = False,
        vm_type: VmType,
        has_apic: bool,
        saving: Callable[[], Saving],
        recorder: Recorder | None = None,
    ) -> None:
        """Own `fd`; `run_size` is the answer to KVM_GET_VCPU_MMAP_SIZE, in bytes.

        `finish_hypercalls`: get past those of private code.
        `saving` gives what knows what there is to be saved, and what a new one is like.
        """
        super().__init__(fd, recorder)
        self._vm_type = vm_type
        self._has_apic = has_apic
        self._saving = saving
        self._dirty_ring_size = dirty_ring_size
        self._thread_clock = ~threading.get_native_id() << 3 | _THREAD_CLOCK
        self.index = index
        self._posted = posted
        self._conversions = conversions
        self._host_cpuid = host_cpuid
        try:
            attempt = f"map the run structure of vCPU {index}"
            hva = lib.pyvmm_map(fd, run_size, _MAP_SHARED, 0)
            if recorder is not None:
                from pyvmm.hosts.kvm.recording import tell_map

                tell_map(recorder, f"vCPU fd {fd}", hva, run_size, _MAP_SHARED)
            self._mapped = (check(hva, attempt), run_size)
            self._run_structure = ffi.cast("struct kvm_run *", hva)
            vcpu = lib.pyvmm_vcpu_new(
                fd, self._run_structure, run_size, posted.raw, conversions.raw
            )
            if vcpu == ffi.NULL:
                lib.pyvmm_unmap(hva, run_size)
                raise SystemCallError(attempt, ffi.errno, "out of memory")
        except BaseException:
            super().close()
            raise
        # Freed with the last reference and not by close(), so that a kick that comes too late
        # still finds its memory.
        self._vcpu: CData = ffi.gc(vcpu, lib.pyvmm_vcpu_free)
        if finish_hypercalls:
            lib.pyvmm_vcpu_finish_hypercalls(vcpu)
        self._run: Callable[[CData], int] = lib.pyvmm_vcpu_run
        self._breakpoints: Breakpoints | None = None

    def run(self) -> Exit:
        """Run guest code until something needs the monitor (KVM_RUN, api.rst 4.10).

        An exit that asks for an answer gets it through `answer` and its like before the next run.
        Raises `KvmError`.
        """
        code = self._run(self._vcpu)
        try:
            return code_cache[code]
        except KeyError:
            return decode(code, self._run_structure, self.fd)

    def set_breakpoints(self, addresses: Sequence[int], *, step: bool = False) -> None:
        """Have `run` return `Debug` before any of these linear addresses (`hosts.breakpoints`).

        Raises `UsageError` and `HostLacksError` for what cannot be one, `KvmError`.
        """
        from pyvmm.hosts.breakpoints import require_breakpoints
        from pyvmm.hosts.kvm.breakpoints import MOST, Breakpoints

        require_breakpoints(addresses, MOST)
        if self._breakpoints is None:
            self._breakpoints = Breakpoints(self, self._shared(), lib.pyvmm_vcpu_run)
        self._breakpoints.set(addresses, step=step)
        self._run = self._breakpoints.run if addresses or step else lib.pyvmm_vcpu_run

    def answer(self, data: bytes) -> None:
        """Answer `IoIn` or `MmioRead` with exactly the bytes that it asks for.

        Raises `InternalError` when the last exit asks for nothing, or for another number of bytes.
        """
        result = lib.pyvmm_vcpu_answer(self._vcpu, data, len(data))
        if result:
            self._refuse_answer(result, f"{len(data)} bytes")

    def answer_hypercall(self, value: int) -> None:
        """Answer `Hypercall`: what the guest finds in RAX. Raises `InternalError` as `answer`."""
        result = lib.pyvmm_vcpu_answer_hypercall(self._vcpu, value & 0xFFFF_FFFF_FFFF_FFFF)
        if result:
            self._refuse_answer(result, "a hypercall's value")

    def answer_msr(self, value: int, *, fault: bool) -> None:
        """Answer `ReadMsr` or `WriteMsr`; `fault` injects #GP. Raises as `answer`."""
        result = lib.pyvmm_vcpu_answer_msr(self._vcpu, value, fault)
        if result:
            self._refuse_answer(result, "an MSR access")

    def _refuse_answer(self, result: int, what: str) -> NoReturn:
        cause = "the last exit asks for no such answer, or has it already"
        if result == -errno.EINVAL:
            cause = "the exit asks for another number of bytes"
        raise InternalError(f"answer vCPU {self.index} with {what}", cause)

    def kick(self) -> None:
        """From any thread: make the present or next `run` return `Interrupted` (once).

        On a closed vCPU it does nothing.
        """
        lib.pyvmm_vcpu_kick(self._vcpu)

    def idle_mark(self) -> int | None:
        """The processor time, in ns, of the thread that made it; not once that thread has ended."""
        return time.clock_gettime_ns(self._thread_clock)

    def complete(self) -> bool:
        """Let the kernel finish a pending access or hypercall without entering the guest.

        Registers show it as done only afterwards (api.rst 5, "the kvm_run structure": a
        pending operation is completed by the next KVM_RUN, here one with immediate_exit set). An
        exit that the completion itself causes is returned by the next `run`: then True. Raises
        `SystemCallError`.
        """
        check(lib.pyvmm_vcpu_complete(self._vcpu), f"complete the last exit of vCPU {self.index}")
        return bool(lib.pyvmm_vcpu_keeps_exit(self._vcpu))

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt from a controller of ours (KVM_INTERRUPT, api.rst 4.16).

        Raises `KvmError`: ENXIO with in-kernel controllers; with split ones EEXIST while one is
        queued. Without any, a queued one is replaced: ask `can_take_interrupt` first.
        """
        raw = new("struct kvm_interrupt *", {"irq": vector})
        call(ioctls.INTERRUPT, self, raw, f"vector={vector}")

    def nmi(self) -> None:
        """Queue a non-maskable interrupt (KVM_NMI, api.rst 4.64). Raises `KvmError`."""
        call(ioctls.NMI, self)

    def set_signal_mask(self, blocked: Iterable[int] | None) -> None:
        """The signals blocked while the guest runs; None: the thread's own (api.rst 4.21).

        Never the signal that kicks are sent by. Raises `KvmError`.
        """
        if blocked is None:
            call(ioctls.SET_SIGNAL_MASK, self, ffi.NULL, "NULL")
            return
        signals = set(blocked) - {int(lib.pyvmm_kick_signal())}
        mask = struct.pack("<Q", sum(1 << number - 1 for number in signals))
        raw = new("struct kvm_signal_mask *", {"len": len(mask), "sigset": mask})
        call(ioctls.SET_SIGNAL_MASK, self, raw, f"signals={sorted(signals)}")

    def pre_fault(self, gpa: int, size: int) -> None:
        """Map [gpa, gpa + size), bytes, page-aligned, before the guest touches it (api.rst 4.143).

        Raises `KvmError`.
        """
        raw = new("struct kvm_pre_fault_memory *", {"gpa": gpa, "size": size})
        while True:
            call(ioctls.PRE_FAULT_MEMORY, self, raw, f"gpa={raw.gpa:#x} size={raw.size:#x}")
            if not raw.size:
                return

    def drain_coalesced(self, page: int) -> list[CoalescedWrite]:
        """Take the VM's coalesced writes, of all its vCPUs, oldest first (api.rst 4.116).

        `page`: the answer to KVM_CAP_COALESCED_MMIO. From any thread. Raises `SystemCallError`.
        """
        from pyvmm.hosts.kvm import coalesced

        entries = new("struct kvm_coalesced_mmio[]", int(lib.PYVMM_COALESCED_ENTRIES))
        result = lib.pyvmm_vcpu_take_coalesced(self._vcpu, page * PAGE_SIZE, entries)
        count = check(result, f"drain the coalesced writes of vCPU {self.index}")
        return coalesced.decode_writes(entries, count)

    def dirty_ring(self) -> DirtyRing:
        """The ring of pages that this vCPU dirtied, after `Vm.enable_dirty_ring`; once.

        Raises `InternalError` without that, `SystemCallError`.
        """
        from pyvmm.hosts.kvm.dirty_ring import DirtyRing

        if not self._dirty_ring_size:
            raise InternalError(f"map the dirty ring of vCPU {self.index}", "it was not enabled")
        return DirtyRing(self.fd, self._dirty_ring_size)

    def statistics(self) -> Stats:
        """The vCPU's statistics (KVM_GET_STATS_FD, api.rst 4.133). Raises `KvmError`."""
        from pyvmm.hosts.kvm.stats import Stats

        return Stats(call(ioctls.GET_STATS_FD, self, kind=FdKind.VCPU))

    def reset(self) -> None:
        """Everything as `Vm.create_vcpu` made it, but CPUID; what was pending is forgotten.

        Complete the last exit first. Raises `KvmError`.
        """
        self.restore(self._saving().new_vcpu(self._kind(), self.index))

    def save(self) -> KvmSavedVcpu:
        """All its state; complete the last exit first (`pyvmm.hosts.kvm.saved_vcpu`).

        Raises `KvmError`, and `InternalError` while an exit waits to be returned by `run`.
        """
        from pyvmm.hosts.kvm import saved_vcpu

        if lib.pyvmm_vcpu_keeps_exit(self._vcpu):
            raise InternalError(f"save vCPU {self.index}", "an exit of it waits to be answered")
        return saved_vcpu.save(self, self._saved_like())

    def restore(self, saved: SavedVcpu) -> None:
        """Take a state that `save` gave; an exit under way is forgotten.

        Raises `HostLacksError`, `UsageError` and `KvmError` as `interface.Vcpu.restore`; after a
        `KvmError` the state is neither the old one nor the new one.
        """
        from pyvmm.hosts.kvm import saved_vcpu

        like = self._saved_like()
        found = saved_vcpu.require(saved, like)
        attempt = f"complete the last exit of vCPU {self.index}"
        check(lib.pyvmm_vcpu_drop_exit(self._vcpu), attempt)
        if self._breakpoints is not None:
            self._breakpoints.forget()
        if found.cpuid and found.cpuid != like.cpuid:
            self.give_cpuid(found.cpuid)
        saved_vcpu.restore(self, self._saved_like(), found)

    def _saved_like(self) -> VcpuLike:
        return self._saving().vcpu_like(self._kind(), self.index)

    def _kind(self) -> Kind:
        from pyvmm.hosts.kvm import cpuid
        from pyvmm.hosts.kvm.saving import Kind

        given = self._cpuid_given
        return Kind(self._vm_type, self._has_apic, b"" if given is None else cpuid.as_bytes(given))

    def use_host_cpuid(self) -> None:
        """Give the guest every CPUID feature that the host can (KVM_GET_SUPPORTED_CPUID)."""
        self._give_cpuid(self._host_cpuid(self.index))

    def give_cpuid(self, table: bytes) -> None:
        """Give the guest a CPUID table as `KvmSavedVcpu.cpuid` has it. Raises `KvmError`."""
        from pyvmm.hosts.kvm import cpuid

        self._give_cpuid(cpuid.from_bytes(table))

    def recent_exits(self) -> Sequence[ExitRecord]:
        """The last exits, oldest first, at most 32; adjacent ones of one kind and place folded."""
        rows = new("struct pyvmm_record[]", int(lib.PYVMM_RECORDS))
        count = lib.pyvmm_history_records(lib.pyvmm_vcpu_history(self._vcpu), rows)
        return [
            ExitRecord(
                row.reason,
                EXIT_NAMES.get(row.reason, f"reason {row.reason}"),
                row.address,
                row.size,
                bool(row.is_write),
                row.value,
                row.count,
                row.when,
            )
            for row in (rows[i] for i in range(count))
        ]

    def exit_counts(self) -> Mapping[str, int]:
        """Exits so far by the name of their reason, without those that there were none of.

        What ended no `run`, or ended it without an exit, is counted as "POSTED_WRITE",
        "POSTED_READ", "CONVERTED" (see `FastConversions`) and "INTERRUPTED"; a hypercall that the
        kernel alone could not get past as "HYPERCALL_COMPLETED" too.
        """
        history = lib.pyvmm_vcpu_history(self._vcpu)
        most = int(lib.PYVMM_REASONS)
        counts = {
            EXIT_NAMES.get(reason, f"reason {reason}"): int(count)
            for reason, count in enumerate(ffi.unpack(history.counts, most))
            if count
        }
        counts[f"reason {most} or above"] = int(history.counts[most])
        counts["POSTED_WRITE"] = int(history.posted_writes)
        counts["POSTED_READ"] = int(history.posted_reads)
        counts["CONVERTED"] = int(history.conversions)
        counts["HYPERCALL_COMPLETED"] = int(history.hypercalls_completed)
        counts["INTERRUPTED"] = int(history.interrupted)
        return {name: count for name, count in counts.items() if count}

    def close(self) -> None:
        """Unmap and close; a second call does nothing.

        Raises `InternalError` while another thread is inside `run`: kick it and wait for it first.
        """
        # A vCPU whose construction failed has no C part yet.
        if getattr(self, "_vcpu", None) is not None:
            self._unmap()
        super().close()

    def _unmap(self) -> None:
        if lib.pyvmm_vcpu_close(self._vcpu):
            attempt, remedy = f"close vCPU {self.index}", "kick it and join the thread"
            raise InternalError(attempt, "a thread is running it", remedy)
