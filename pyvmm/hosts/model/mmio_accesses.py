# SPDX-License-Identifier: MIT
"""Accesses to devices in memory, each done once though its instruction is begun twice.

Unicorn looks behind every load and store whether it is to stop, and if so leaves the instruction in
the middle; the next run begins it again. RAM does not mind, a device does. So what an instruction
has had from devices is kept until it is done, and given to it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvmm.hosts import exits
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.model import instructions
from pyvmm.hosts.model.engine import Engine

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import SavedAccesses

_MOST = 32
"""More than one instruction makes: unaligned, a move of 8 bytes makes 2 reads and 8 writes."""

_TRIES = 4
"""Number of tries to begin a left instruction again: a stop from elsewhere may prevent one."""


class MmioAccesses:
    """Those of one vCPU. `ask` hands an exit to the monitor, as in `DeviceAccess`."""

    def __init__(self, engine: Engine, ask: Callable[[Exit], int | None]) -> None:
        self._engine = engine
        self._ask = ask
        self._done: deque[tuple[Exit, int]] = deque(maxlen=_MOST)
        self._again: list[tuple[Exit, int]] = []
        self._is_left = self._is_begun_again = False
        self._left_at = (-1, -1)
        self._tries = 0

    def do(self, access: exits.MmioRead | exits.MmioWrite) -> int:
        """Do an access and return what it reads; for a write the value does not matter."""
        if self._is_begun_again:
            self._is_begun_again = False
            self._again = self._since(access)
        if self._again:
            known, answer = self._again.pop(0)
            if known == access:
                return answer
            self._again.clear()
        answer = self._ask(access) or 0
        self._done.append((access, answer))
        self._is_left = self._engine.is_stopping
        return answer

    def _since(self, first: Exit) -> list[tuple[Exit, int]]:
        """The last accesses, from the latest on that is the same as `first`.

        These are the instruction's: none makes the same access twice.
        """
        done = list(self._done)
        for at in range(len(done) - 1, -1, -1):
            if done[at][0] == first:
                return done[at:]
        return []

    def save(self) -> SavedAccesses:
        """Accesses of an instruction that is to be begun again; the engine does not run."""
        from pyvmm.hosts.model.saved_values import SavedAccesses

        return SavedAccesses(
            tuple(self._done),
            tuple(self._again),
            self._is_begun_again,
            self._left_at,
            self._tries,
        )

    def restore(self, saved: SavedAccesses) -> None:
        """Take what `save` gave."""
        self._done.clear()
        self._done.extend(saved.done)
        self._again[:] = saved.again
        self._is_begun_again = saved.is_begun_again
        self._is_left = False
        self._left_at = saved.left_at
        self._tries = saved.tries

    @property
    def is_pending(self) -> bool:
        """True while an instruction has to be finished before anything else is done."""
        return self._is_begun_again or bool(self._again)

    def take_left(self) -> bool:
        """The engine has stopped: whether it has left an instruction that has to be begun again."""
        left, self._is_left = self._is_left, False
        if left:
            self._is_begun_again = True
            self._left_at = self._place()
            self._tries = _TRIES
        return left

    def _place(self) -> tuple[int, int]:
        """Of an instruction, or of one round of a REP."""
        state = self._engine.state
        return state.rip, state.register(instructions.RCX)

    def leave_behind(self) -> None:
        """The registers are others now: elsewhere nothing is begun again."""
        if self.is_pending and self._place() != self._left_at:
            self._is_begun_again = False
            self._again.clear()

    def forget(self) -> None:
        """The engine has run: what was left is done, unless it was stopped before it began."""
        if not self.is_pending:
            return
        self._tries -= 1
        if self._place() != self._left_at or not self._tries:
            self._is_begun_again = False
            self._again.clear()
