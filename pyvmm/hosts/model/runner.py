# SPDX-License-Identifier: MIT
"""The execution of one vCPU: engine, exceptions, interrupts, devices, turns."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pyvmm.hosts import exits
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model import cpuid, engine, instructions
from pyvmm.hosts.model.address_space import VcpuServices
from pyvmm.hosts.model.breakpoints import Breakpoints
from pyvmm.hosts.model.cpu_state import HF_INHIBIT_IRQ, CpuState
from pyvmm.hosts.model.devices import DeviceAccess
from pyvmm.hosts.model.engine import Engine
from pyvmm.hosts.model.exceptions import (
    GENERAL_PROTECTION,
    INVALID_OPCODE,
    WITH_ERROR_CODE,
    Event,
    Source,
    TaskGateError,
    deliver,
)
from pyvmm.hosts.model.guest_memory_access import GuestMemoryAccess, NotMemoryError
from pyvmm.hosts.model.guest_strand import GuestStrand
from pyvmm.hosts.model.history import History
from pyvmm.hosts.model.msrs import Msrs
from pyvmm.hosts.model.outcomes import AtBreakpoint, Broken, Outcome, Trap, Unreachable
from pyvmm.hosts.model.watch import Watch
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import ModelSavedVcpu, SavedAccesses
    from pyvmm.hosts.registers import Regs

_DISABLE_HLT = 2
_IF = 1 << 9
_LONGEST_WAIT = 0.05
_CODE_SIZE = 15


class Runner:
    """One vCPU's execution. `run`, `complete` and `close` belong to one thread, `kick` to any.

    Guest code runs on a strand; there it holds the VM's turn while it executes, and gives it back
    while the monitor answers.
    """

    def __init__(self, index: int, services: VcpuServices, apic_base: int) -> None:
        self.history = History()
        self._devices = DeviceAccess(index, services, self.history, self._ask, self._is_dying)
        self.engine = Engine(self._devices)
        self.msrs = Msrs(apic_base)
        self.has_cpuid = False
        self.answer = 0
        """Value that the device access under way reads."""
        controllers = services.controllers
        self.waits_for_startup = controllers is not None and index > 0
        self.slices = 0
        """Count of the times it has begun to execute."""
        self._index = index
        self._services = services
        self._controllers = controllers
        self._memory = GuestMemoryAccess(services.memory, self.engine.state)
        self._devices.attach(self.engine, self._memory)
        self._strand = GuestStrand(self._body, f"guest code {index}", self.kick, self.take_kick)
        self.breakpoints = Breakpoints(self.engine)
        self._watch = Watch(self._is_wanted, self.engine.stop, f"watch {index}")
        self._turn: AbstractContextManager[None] | None = None
        self._hypercall = False
        self._suspended = False
        self._kicked = False
        self._completing = False
        self._dying = False
        self._halted = False

    # -- for the vCPU's own thread --

    @property
    def is_halted(self) -> bool:
        """True while it waits for an interrupt."""
        return self._halted

    def run(self) -> Exit:
        """Until there is an exit."""
        if not self._strand.settle() and self._hypercall:
            self.finish_hypercall(0)
        reason = self._strand.resume()
        return exits.Interrupted() if reason is None else reason

    def complete(self) -> Exit | None:
        """Finish the access under way; the exit that came up meanwhile, if one did."""
        if not (left := self._strand.settle()) and self._hypercall:
            self.finish_hypercall(0)
        if not self._suspended and not left:
            return None
        self._completing = True
        try:
            return self._strand.resume()
        finally:
            self._completing = False

    def state(self) -> CpuState:
        """The processor's state; in the middle of an instruction RIP and flags are older."""
        return self.engine.load() if self._suspended else self.engine.state

    def set_regs(self, regs: Regs) -> None:
        """General registers; with another RIP, an instruction that was broken off is left."""
        self.state().regs = regs
        self._devices.accesses.leave_behind()

    def kick(self) -> None:
        """Make the present or next `run` end with `Interrupted`."""
        # The watch stops the engine: from here it could be one that is being set up or freed.
        self._kicked = True
        if self._controllers is not None:
            self._controllers.wake()

    def take_kick(self) -> bool:
        """Take the kick, and tell whether there was one since the last call."""
        kicked, self._kicked = self._kicked, False
        return kicked

    def finish_hypercall(self, value: int) -> None:
        """Go on behind it, with `value` in RAX."""
        self._hypercall = False
        state = self.engine.state
        state.set_register(instructions.RAX, value & (1 << 64) - 1)
        instructions.skip(state, self._code(), 3)

    def drop(self) -> None:
        """Leave the access under way undone, whatever becomes of the state: it is replaced."""
        self._strand.forget()
        self._hypercall = False
        if self._suspended:
            self._dying = self._completing = True
            try:
                self._strand.resume()
            finally:
                self._dying = self._completing = False

    @property
    def is_suspended(self) -> bool:
        """True in the middle of an instruction, or while a hypercall has no answer."""
        return self._strand.settle() or self._suspended or self._hypercall

    def restore(self, saved: ModelSavedVcpu) -> None:
        """Take a saved state; nothing is under way."""
        self.breakpoints.forget()
        self.engine.restore(saved.context)
        self.msrs.apic_base = saved.apic_base
        self.msrs.tsc = saved.tsc
        self.has_cpuid = saved.has_cpuid
        self._halted = saved.is_halted
        self.waits_for_startup = saved.waits_for_startup
        self._devices.accesses.restore(saved.accesses)

    def save_accesses(self) -> SavedAccesses:
        """Accesses to devices of an instruction that is to be begun again."""
        return self._devices.accesses.save()

    def close(self) -> None:
        """End the threads and free the engine."""
        self._strand.forget()
        self._dying = self._completing = True
        if self._suspended:
            self._strand.resume()
        self._strand.close()
        self._watch.close()
        self.engine.close()

    # -- on the strand --

    def _body(self) -> Exit | None:
        while True:
            if self._completing:
                return None
            if self.take_kick():
                return exits.Interrupted()
            if self.waits_for_startup or (self._halted and not self._wakes()):
                self._wait()
                continue
            self._take_turn()
            try:
                reason = self._slice()
            finally:
                self._give_turn()
            self._devices.raise_failure()
            if reason is not None:
                return reason

    def _take_turn(self) -> None:
        self._turn = self._services.turn()
        self._turn.__enter__()

    def _give_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.__exit__(None, None, None)

    def _is_wanted(self) -> bool:
        """For the watch: whether something waits for the engine to stop."""
        if self._kicked or self._services.turn_wanted:
            return True
        return self._controllers is not None and self._controllers.pending(self._index)

    def _can_interrupt(self) -> bool:
        state = self.engine.state
        return bool(state.rflags & _IF) and not state.hflags & HF_INHIBIT_IRQ

    def _wakes(self) -> bool:
        """Tell whether an interrupt ends HLT."""
        controllers = self._controllers
        if controllers is None or not self._can_interrupt():
            return False
        return controllers.pending(self._index)

    def _wait(self) -> None:
        controllers = self._controllers
        if controllers is None:
            self._watch.pause()
            return
        event = controllers.next_event()
        controllers.wait(_LONGEST_WAIT if event is None else min(event, _LONGEST_WAIT))

    def _slice(self) -> Exit | None:
        self.slices += 1
        engine_ = self.engine
        engine_.follow(self._services.memory)
        if (step := self.breakpoints.take_step()) is not None:
            return step
        passes = self.breakpoints.pass_one()
        try:
            waits = self.breakpoints.keeps_interrupts_out and not self._halted
            if not waits and not self._inject():
                return exits.Shutdown()
            self._watch.on()
            try:
                outcome = engine_.execute(int(passes))
                self._devices.accesses.forget()
                while not self._dying and self._devices.accesses.take_left():
                    outcome = engine_.execute(1)
                    self._devices.accesses.forget()
            finally:
                self._watch.off()
            self._devices.raise_failure()
            self._devices.strings.finish()
            reason = self._handle(outcome)
            return self.breakpoints.stepped(outcome, reason) if passes else reason
        except NotMemoryError as error:
            blocked = self._services.memory.blocked(error.gpa, 1, error.write)
            return blocked or self._internal_error()
        except TaskGateError:
            return self._internal_error()
        finally:
            if passes:
                self.breakpoints.passed()

    def _inject(self) -> bool:
        """Deliver an interrupt if one can be; False: triple fault."""
        controllers = self._controllers
        if controllers is None or not controllers.pending(self._index):
            return True
        if not self._can_interrupt() or self._devices.accesses.is_pending:
            return True
        vector = controllers.acknowledge(self._index)
        if vector is None:
            return True
        self._halted = False
        return deliver(self.engine.state, self._memory, Event(vector, source=Source.EXTERNAL))

    # -- outcomes --

    def _handle(self, outcome: Outcome) -> Exit | None:
        match outcome:
            case Trap():
                return self._trap(outcome)
            case Unreachable():
                return self._unreachable(outcome)
            case AtBreakpoint():
                return self.breakpoints.hit()
            case Broken():
                return self._internal_error()
            case _:
                return None

    def _internal_error(self) -> exits.KvmInternalError:
        return instructions.emulation_failed(self._code())

    def _code(self) -> bytes:
        return self._memory.code(_CODE_SIZE)

    def _raise(self, event: Event) -> Exit | None:
        return None if deliver(self.engine.state, self._memory, event) else exits.Shutdown()

    def _unreachable(self, miss: Unreachable) -> Exit | None:
        memory = self._services.memory
        generation = memory.generation
        reason = memory.blocked(miss.gpa, miss.size, miss.write)
        if reason is not None:
            return reason
        if memory.generation != generation:
            return None
        if miss.fetch:
            # KVM, which cannot fetch it either, gives up; a user's program gets an exception.
            if self.engine.state.cpl:
                return self._raise(Event(INVALID_OPCODE))
            return self._internal_error()
        self.engine.make_mmio(miss.gpa)
        last = miss.gpa + miss.size - 1
        if last // PAGE_SIZE != miss.gpa // PAGE_SIZE:
            self.engine.make_mmio(last)
        return None

    def _trap(self, trap: Trap) -> Exit | None:
        state = self.engine.state
        match trap.code:
            case engine.HLT:
                return self._halt(state)
            case engine.PAUSE:
                self.engine.intercept_pause(self._services.turn_wanted)
                instructions.skip(state, self._code(), 1)
            case engine.SYSCALL:
                return None if instructions.syscall(state) else self._raise(Event(INVALID_OPCODE))
            case engine.CPUID:
                self._cpuid(state)
            case engine.MSR:
                return self._msr(state, write=bool(trap.info))
            case engine.SWINT | engine.ICEBP:
                return self._raise(instructions.software_interrupt(state, self._code()))
            case code if engine.EXCEPTION <= code < engine.EXCEPTION + 32:
                return self._exception(code - engine.EXCEPTION, trap.info)
            case _:
                return self._invalid_opcode()
        return None

    def _exception(self, vector: int, error_code: int) -> Exit | None:
        if vector == INVALID_OPCODE:
            return self._invalid_opcode()
        return self._raise(Event(vector, error_code if vector in WITH_ERROR_CODE else None))

    def _invalid_opcode(self) -> Exit | None:
        if self._code()[:3] in instructions.HYPERCALLS:
            return self._take_hypercall(self.engine.state)
        return self._raise(Event(INVALID_OPCODE))

    def _halt(self, state: CpuState) -> Exit | None:
        instructions.skip(state, self._code(), 1)
        if self._controllers is None and not self._services.disabled_exits & _DISABLE_HLT:
            return exits.Hlt()
        self._halted = True
        return None

    def _cpuid(self, state: CpuState) -> None:
        leaf, subleaf = (state.register(number) & 0xFFFF_FFFF for number in (0, 1))
        a, b, c, d = cpuid.answer(leaf, subleaf, self._index) if self.has_cpuid else (0,) * 4
        for number, value in ((0, a), (3, b), (1, c), (2, d)):
            state.set_register(number, value)
        instructions.skip(state, self._code(), 2)

    def _msr(self, state: CpuState, *, write: bool) -> Exit | None:
        index = state.register(instructions.RCX) & 0xFFFF_FFFF
        if write:
            low = state.register(instructions.RAX) & 0xFFFF_FFFF
            high = state.register(instructions.RDX) & 0xFFFF_FFFF
            flush = self.msrs.write(state, index, low | high << 32)
            if flush is None:
                return self._raise(Event(GENERAL_PROTECTION, 0))
            if flush:
                self.engine.forget_translations()
        else:
            value = self.msrs.read(state, index)
            if value is None:
                return self._raise(Event(GENERAL_PROTECTION, 0))
            instructions.set_pair(state, value)
        instructions.skip(state, self._code(), 2)
        return None

    def _take_hypercall(self, state: CpuState) -> Exit | None:
        services = self._services
        number, arguments = instructions.hypercall_arguments(state)
        answer = instructions.answer_at_once(number, arguments, state.cpl, services.hypercall_exits)
        gpa, pages, attributes = arguments
        if answer is None and services.convert(gpa, pages * PAGE_SIZE, bool(attributes & 0x10)):
            self.history.converted()
            answer = 0
        if answer is not None:
            self.finish_hypercall(answer)
            return None
        self._hypercall = True
        return exits.Hypercall(number, (*arguments, 0, 0, 0), state.is_long)

    # -- in the middle of an instruction --

    def _ask(self, reason: Exit) -> int | None:
        """Let the monitor answer. What it does to memory holds for the rest of the block."""
        if self._is_dying():
            return None
        self.answer = 0
        self._watch.off()
        self._give_turn()
        self._suspended = True
        self._strand.hand_over(reason)
        self._suspended = False
        self._take_turn()
        if self._is_dying():
            # The rest of the block must not find memory that may have been given back.
            self.engine.unmap_all()
            self.engine.stop()
            return None
        self.engine.follow(self._services.memory)
        self._watch.on()
        if self._completing or self._kicked:
            self.engine.stop()
        return self.answer

    def _is_dying(self) -> bool:
        return self._dying
