# SPDX-License-Identifier: MIT
"""A stage's process as the reader's side has it: orders, and answers or why there are none.

Sans-I/O but for waiting: `local` and `lab` bring bytes to and from the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pyvmm.demo.house.lines import LONGEST, Alive, Answer, Asked, OpenOn, line_of, said
from pyvmm.errors import ExitCode, PyvmmError
from pyvmm.typed_values import UnfitValueError


class StageGoneError(PyvmmError):
    """The process of a reader's stages is lost, or was never there."""

    exit_code = ExitCode.SYSTEM_CALL

    def __init__(self, cause: str) -> None:
        super().__init__("go on with this stage", cause)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds after which a process counts as lost.

    `start`: it has not said its first word, which is that it is loaded; `silence`: nothing at all
    has come from it since; `act`: an order has not been answered; `end`: it has not ended after
    its input.
    """

    start: float = 240.0
    silence: float = 60.0
    act: float = 120.0
    end: float = 10.0


PATIENCE = Patience()
_LOST_END = 2.0
"""Seconds in which one that is lost may still free what it has; mostly it can."""
_WHILE = 1.0
"""Seconds that are waited at a time."""


class StageClient:
    """One process. Used by one task; `feed` and `end` are called by who reads from it."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        patience: Patience,
        silent: str = "nothing was heard of it for {:g} s",
    ) -> None:
        """`send` writes to the process; raises `OSError` or trio's errors where it is gone.

        `silent` says of so many seconds that nothing came in them.
        """
        self._send = send
        self._silent = silent
        self._patience = patience
        self._buffer = bytearray()
        self._answer: Answer | None = None
        self._waits_for: int | None = None
        self._stirred = trio.Event()
        self._quiet = 0.0
        """Seconds since something was heard, as far as somebody has waited for it."""
        self._is_loading = True
        self.lost = ""
        """Reason that nothing more comes of it, in words; "" while all is well."""

    # -- from the process --

    def feed(self, data: bytes) -> None:
        """Take bytes that it wrote."""
        self.hear()
        self._is_loading = False
        self._buffer += data
        while b"\n" in data and not self.lost:
            line, _, rest = bytes(self._buffer).partition(b"\n")
            self._buffer, data = bytearray(rest), rest
            self._take(line)
        if len(self._buffer) >= LONGEST:
            self.lose(f"its process said a line of more than {LONGEST} bytes")

    def hear(self) -> None:
        """Take that it, or what it runs in, is there, although it says nothing to us."""
        self._quiet = 0.0

    def lose(self, why: str) -> None:
        """Give it up; the first reason counts."""
        self.lost = self.lost or why
        self._buffer.clear()
        self._stir()

    @property
    def end_patience(self) -> float:
        """Seconds for its end after its input: few for one that is lost."""
        return min(_LOST_END, self._patience.end) if self.lost else self._patience.end

    def _take(self, line: bytes) -> None:
        try:
            word = said(line)
        except UnfitValueError as error:
            self.lose(f"its process said nonsense: {error}")
            return
        if isinstance(word, Alive):
            self._stir()
        elif self._answer is not None or word.ticket != self._waits_for:
            self.lose("its process answered what it was not asked")
        else:
            self._answer = word
            self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = trio.Event()

    # -- to the process --

    async def ask(self, order: Asked) -> Answer:
        """Give an order, and wait for what comes of it. Raises `StageGoneError`.

        If it is cancelled, nobody knows what the process does then: it is given up.
        """
        self._answer, self._quiet = None, 0.0
        self._waits_for = order.order.ticket if isinstance(order, OpenOn) else order.ticket
        taken = 0.0
        try:
            with trio.move_on_after(self._patience.start + self._patience.act):
                await self._to_process(order)
            while not self.lost and self._answer is None and taken < self._patience.act:
                was_loading = self._is_loading
                waited = await self._wait()
                taken += 0.0 if was_loading else waited
        except BaseException:
            self.lose("the reader went away in the middle of a step")
            raise
        finally:
            self._waits_for = None
        return self._answered()

    def _answered(self) -> Answer:
        answer, self._answer = self._answer, None
        if answer is None:
            self.lose(f"it did not answer in {self._patience.act:g} s")
            raise StageGoneError(self.lost)
        return answer

    async def _to_process(self, order: Asked) -> None:
        if self.lost:
            return
        try:
            await self._send(line_of(order))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # Why it has gone is known when its output has ended.
            await trio.lowlevel.checkpoint()

    async def _wait(self) -> float:
        """Wait for a while until something has come of it: the seconds that count.

        It is lost once it has been silent for too long. Time in which this process was stopped
        counts as one while at most, so that what was said meanwhile is heard.
        """
        patience = self._patience.start if self._is_loading else self._patience.silence
        most = min(_WHILE, patience)
        stirred, began = self._stirred, trio.current_time()
        with trio.move_on_after(most):
            await stirred.wait()
            return min(most, trio.current_time() - began)
        self._quiet += most
        if self._quiet >= patience:
            self.lose(self._silent.format(patience))
        return most
