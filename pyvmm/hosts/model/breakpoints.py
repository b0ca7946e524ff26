# SPDX-License-Identifier: MIT
"""Breakpoints of a vCPU of the model: addresses before which the engine stops."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.hosts import exits
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model.engine import Engine
from pyvmm.hosts.model.outcomes import Outcome, Unreachable

MOST_BREAKPOINTS = 64
_DEBUG_EXCEPTION = 1
_DR6, _DR7 = 0xFFFF_0FF0, 0x400
"""Nothing hit, nothing armed (SDM vol. 3B, 18.2): as after reset."""


class Breakpoints:
    """Breakpoints of one vCPU, and the one whose instruction is to be got past."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stands_at: int | None = None
        self._again = False
        self._is_passing = False
        self._addresses: tuple[int, ...] = ()
        self._is_step_asked = False
        self._has_stepped = False
        self._step_from = 0

    def set(self, addresses: Sequence[int], *, step: bool = False) -> None:
        """Have these and no others; `step`: stop after one instruction, too."""
        if not addresses:
            self._stands_at = None
        self._is_step_asked = step
        self._has_stepped = False
        if self._addresses != tuple(addresses):
            self._addresses = tuple(addresses)
            self._engine.break_at(addresses)

    def forget(self) -> None:
        """The vCPU is another now: nothing is to be got past."""
        self._stands_at = None
        self._is_step_asked = self._has_stepped = False

    def pass_one(self) -> bool:
        """Tell whether the next instruction is to be executed alone.

        It is the one that the last exit stopped before, or a step. Then nothing stops the engine
        before `passed`.
        """
        if self._is_step_asked:
            self._again = False
            self._step_from = self._engine.state.linear_rip
            self._is_passing = self._engine.ignores_breaks = True
            return True
        if self._stands_at is None:
            return False
        if self._stands_at != self._engine.state.linear_rip:
            self._stands_at = None
            return False
        self._is_passing = self._engine.ignores_breaks = True
        return True

    @property
    def keeps_interrupts_out(self) -> bool:
        """True while the instruction has not been tried yet: it comes before any interrupt."""
        return self._is_passing and not self._again

    def passed(self) -> None:
        """Stop again, but where the instruction is still the next one: it repeats itself."""
        self._is_passing = self._engine.ignores_breaks = False
        if self._is_step_asked:
            return
        self._again = self._stands_at == self._engine.state.linear_rip
        if not self._again:
            self._stands_at = None

    def hit(self) -> exits.Debug:
        """Make the exit: the engine has stopped for one."""
        self._stands_at = pc = self._engine.state.linear_rip
        self._again = False
        return exits.Debug(_DEBUG_EXCEPTION, pc, _DR6, _DR7)

    def stepped(self, outcome: Outcome, reason: Exit | None) -> Exit | None:
        """The exit after an instruction that was executed alone: `reason`, or a step's end."""
        if not self._is_step_asked or isinstance(outcome, Unreachable):
            return reason
        if self._engine.is_stopping and self._step_from == self._engine.state.linear_rip:
            return reason  # Perhaps it was not executed.
        self._has_stepped = reason is None or isinstance(reason, exits.Hypercall)
        return self.take_step() if reason is None else reason

    def take_step(self) -> exits.Debug | None:
        """Take the exit of a step that has been made, though the last exit was of another kind."""
        if not self._has_stepped:
            return None
        self._is_step_asked = self._has_stepped = False
        pc = self._engine.state.linear_rip
        # Who goes on from here has been told of the place.
        self._stands_at = pc if pc in self._addresses else None
        self._again = False
        return exits.Debug(_DEBUG_EXCEPTION, pc, _DR6 | exits.SINGLE_STEP, _DR7)
