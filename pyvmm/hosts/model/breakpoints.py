# SPDX-License-Identifier: MIT
"""Breakpoints of a vCPU of the model: addresses before which the engine stops."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.hosts import exits
from pyvmm.hosts.model.engine import Engine

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

    def set(self, addresses: Sequence[int]) -> None:
        """Have these and no others."""
        if not addresses:
            self._stands_at = None
        self._engine.break_at(addresses)

    def forget(self) -> None:
        """The vCPU is another now: nothing is to be got past."""
        self._stands_at = None

    def pass_one(self) -> bool:
        """Tell whether the next instruction is the one that the last exit stopped before.

        Then nothing stops the engine before `passed`: it is to execute that instruction alone.
        """
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
        self._again = self._stands_at == self._engine.state.linear_rip
        if not self._again:
            self._stands_at = None

    def hit(self) -> exits.Debug:
        """Make the exit: the engine has stopped for one."""
        self._stands_at = pc = self._engine.state.linear_rip
        self._again = False
        return exits.Debug(_DEBUG_EXCEPTION, pc, _DR6, _DR7)
