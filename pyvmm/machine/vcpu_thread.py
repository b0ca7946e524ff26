# SPDX-License-Identifier: MIT
"""A vCPU's thread: makes the vCPU, runs it, answers its exits, reports, and closes it.

Exits are answered synchronously on this thread. It holds no lock while it waits, and it always
comes back to `RunControl` when kicked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from pyvmm.errors import SystemCallError
from pyvmm.hosts import exits
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.board import Board
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE

if TYPE_CHECKING:
    from pyvmm.hosts.raw_exits import OnUnknown
    from pyvmm.machine.implicit import FaultRefused, ImplicitConversion
    from pyvmm.machine.report import VcpuReport

_KVM_ENOSYS = 1000
"""Linux's answer to a hypercall that nobody knows (include/uapi/linux/kvm_para.h), negated."""
_SYSTEM_EVENT_RESET = 2

Allow: TypeAlias = "Callable[[ImplicitConversion], bool]"
"""Callback that allows or refuses a conversion the guest did not announce; on a vCPU's thread."""


class VcpuThread:
    """One vCPU and the thread that it spends its life on.

    `create` makes the vCPU and gives it its first registers; it is called on the thread.
    """

    def __init__(
        self,
        index: int,
        create: Callable[[int], Vcpu],
        *,
        control: RunControl,
        board: Board,
        console: ConsolePort,
        memory: GuestMemory,
        allow: Allow,
        on_done: Callable[[], None],
        unknown: OnUnknown | None = None,
        report_always: bool = False,
    ) -> None:
        """`unknown` deals with exits that are not known here.

        `report_always`: there is a `report` after every ending but a good one.
        """
        self.index = index
        self.refused: FaultRefused | None = None
        self.report: VcpuReport | None = None
        self.exit_counts: Mapping[str, int] = {}
        self._create = create
        self._control = control
        self._board = board
        self._console = console
        self._memory = memory
        self._allow = allow
        self._unknown = unknown
        self._on_done = on_done
        self._report_always = report_always
        self._crashed = False
        self._handlers: dict[type, Callable[..., None]] = {
            exits.IoIn: self._io_in,
            exits.MmioWrite: self._mmio_write,
            exits.MmioRead: self._mmio_read,
            exits.Interrupted: self._nothing,
            exits.PostedFull: self._posted_full,
            exits.Hlt: self._hlt,
            exits.Shutdown: self._shutdown,
            exits.KvmInternalError: self._internal_error,
            exits.FailEntry: self._fail_entry,
            exits.SystemEvent: self._system_event,
            exits.Debug: self._debug,
            exits.Hypercall: self._hypercall,
            exits.MemoryFault: self._memory_fault,
            exits.ReadMsr: self._msr,
            exits.WriteMsr: self._msr,
        }
        self._thread = threading.Thread(target=self._main, name=f"vcpu{index}", daemon=True)

    def start(self) -> None:
        """Start the thread; where the system has none to give, the run fails."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._control.fail(
                SystemCallError(
                    f"start a thread for vCPU {self.index}",
                    0,
                    str(error),
                    "raise the limits on threads and address space (ulimit -u, ulimit -v)",
                )
            )
            self._on_done()

    @property
    def native_id(self) -> int | None:
        """The system's number of the thread; None before it has begun."""
        return self._thread.native_id

    @property
    def is_current(self) -> bool:
        """True on the thread itself."""
        return threading.current_thread() is self._thread

    def join(self) -> None:
        """Wait for a thread that has called `on_done`: it has nothing left to do."""
        if self._thread.ident is not None:
            self._thread.join()

    def _main(self) -> None:
        try:
            with self._create(self.index) as vcpu:
                self._vcpu = vcpu
                self._control.enter(self.index, vcpu)
                try:
                    self._loop(vcpu)
                    self._conclude(vcpu)
                finally:
                    self._control.leave(self.index)
        except BaseException as failure:  # noqa: BLE001 - a thread has nobody above it: pass it on
            self._control.fail(failure)
        finally:
            self._on_done()

    def _loop(self, vcpu: Vcpu) -> None:
        run = vcpu.run
        control = self._control
        handler_of = self._handlers.get
        unhandled = self._unhandled
        port_out = self._board.port_out
        console = self._console
        io_out = exits.IoOut
        while True:
            if control.attention:
                if not control.is_over:
                    self._settle(vcpu)
                if not control.attend(self.index, vcpu):
                    return
            if console.is_full:
                # The console's reader is too far behind. No lock is held here.
                console.wait_for_room()
            reason = run()
            if type(reason) is io_out:
                # The most common exit by far: spared a call.
                port_out(reason.port, reason.size, reason.count, reason.data)
            else:
                handler_of(type(reason), unhandled)(reason)

    def _settle(self, vcpu: Vcpu) -> None:
        """Complete the last exit, and answer what comes of that: nothing is under way any more."""
        while vcpu.complete() and not self._control.is_over:
            reason = vcpu.run()
            if type(reason) is exits.PostedFull:
                # Waiting for room would be for whoever has stopped this thread.
                self._board.drain_posted()
            else:
                self._answer(reason)

    def _answer(self, reason: exits.Exit) -> None:
        if type(reason) is exits.IoOut:
            self._board.port_out(reason.port, reason.size, reason.count, reason.data)
        else:
            self._handlers.get(type(reason), self._unhandled)(reason)

    def _conclude(self, vcpu: Vcpu) -> None:
        ending = self._control.ending
        if ending is not None and (
            ending.wants_report or (self._report_always and not ending.is_well)
        ):
            from pyvmm.machine.report import collect  # A guest that ends well does not need it.

            if not self._crashed:
                vcpu.complete()
            self.report = collect(self.index, vcpu, self._memory.read)
        self.exit_counts = dict(vcpu.exit_counts())

    # -- exits --

    def _io_in(self, reason: exits.IoIn) -> None:
        self._vcpu.answer(self._board.port_in(reason.port, reason.size, reason.count))

    def _mmio_write(self, reason: exits.MmioWrite) -> None:
        self._board.mmio_write(reason.gpa, reason.data)

    def _mmio_read(self, reason: exits.MmioRead) -> None:
        self._vcpu.answer(self._board.mmio_read(reason.gpa, reason.size))

    def _posted_full(self, _reason: exits.PostedFull) -> None:
        if self._console.is_full:
            self._console.wait_for_room()
        # Still full when something else is wanted of this thread: then the ring keeps it.
        if not self._console.is_full:
            self._board.drain_posted()

    def _nothing(self, _reason: exits.Interrupted) -> None:
        pass

    def _hlt(self, _reason: exits.Hlt) -> None:
        # HLT leaves the kernel only where no in-kernel controller could deliver an interrupt.
        if self._control.halt(self.index):
            self._end(
                EndingKind.HALTED,
                "the guest halted, and a machine without interrupt controllers cannot wake it",
            )
        while self._control.attend(self.index, self._vcpu):
            self._control.sleep()

    def _shutdown(self, _reason: exits.Shutdown) -> None:
        self._crash(EndingKind.TRIPLE_FAULT, f"triple fault on vCPU {self.index}")

    def _internal_error(self, reason: exits.KvmInternalError) -> None:
        what = {1: "instruction emulation failed", 2: "simultaneous exceptions"}.get(
            reason.suberror, "no further reason given"
        )
        data = " ".join(f"{item:#x}" for item in reason.data)
        self._crash(
            EndingKind.KVM_INTERNAL_ERROR,
            f"KVM internal error on vCPU {self.index}: suberror {reason.suberror}, {what}"
            + (f" ({data})" if data else ""),
        )

    def _fail_entry(self, reason: exits.FailEntry) -> None:
        self._crash(
            EndingKind.FAILED_ENTRY,
            f"the processor refused to enter the guest on vCPU {self.index}: "
            f"hardware reason {reason.reason:#x} on CPU {reason.cpu}",
        )

    def _system_event(self, reason: exits.SystemEvent) -> None:
        if reason.kind == _SYSTEM_EVENT_RESET:
            self._control.guest_reset()
            return
        kinds = {
            1: Ending(EndingKind.EXITED, "the guest powered itself off", 0),
            3: Ending(EndingKind.PANICKED, "the guest reported a crash"),
        }
        ending = kinds.get(reason.kind)
        if ending is None:
            self._unhandled(reason)
        else:
            self._control.end(ending)

    def _debug(self, reason: exits.Debug) -> None:
        stepped = bool(reason.dr6 & exits.SINGLE_STEP)
        self._control.hit_breakpoint(self.index, reason.pc, stepped=stepped)

    def _hypercall(self, reason: exits.Hypercall) -> None:
        result = -_KVM_ENOSYS
        if reason.number == KVM_HC_MAP_GPA_RANGE:
            result = self._memory.exits.answer_hypercall(reason.args)
        self._vcpu.answer_hypercall(result & (1 << 64) - 1)

    def _memory_fault(self, reason: exits.MemoryFault) -> None:
        # As numbers: the complement of a flag has no bits without a name.
        if int(reason.flags) & ~int(exits.MemoryFaultFlag.PRIVATE) and self._is_dealt_with(reason):
            return
        refused = self._memory.exits.resolve_fault(reason, self.index, self._allow)
        if refused is not None:
            self.refused = refused
            self._crashed = True
            kind = "private" if refused.private_access else "shared"
            self._end(
                EndingKind.MEMORY_REFUSED,
                f"vCPU {self.index} made a {kind} access to gpa {refused.gpa:#x}: {refused.cause}",
            )

    def _msr(self, _reason: exits.ReadMsr | exits.WriteMsr) -> None:
        self._vcpu.answer_msr(0, fault=True)

    def _is_dealt_with(self, reason: exits.UnknownExit | exits.MemoryFault) -> bool:
        """Ask the machine's owner, who may know an exit that is not known here."""
        if self._unknown is None:
            return False
        from pyvmm.hosts.raw_exits import RawExit  # Most machines meet none.

        return self._unknown(RawExit.of(reason, self._vcpu, self.index))

    def _unhandled(self, reason: exits.Exit) -> None:
        if isinstance(reason, exits.UnknownExit) and self._is_dealt_with(reason):
            return
        self._crash(
            EndingKind.UNHANDLED_EXIT,
            f"vCPU {self.index} stopped for something that pyvmm has no answer to: {reason}",
        )

    def _crash(self, kind: EndingKind, detail: str) -> None:
        self._crashed = True
        self._end(kind, detail)

    def _end(self, kind: EndingKind, detail: str) -> None:
        self._control.end(Ending(kind, detail))
