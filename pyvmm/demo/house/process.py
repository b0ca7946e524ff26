# SPDX-License-Identifier: MIT
"""``python -m pyvmm.demo.house.process``: the process of a reader's stages.

Orders come as lines on standard input (`lines.Asked`), answers go as lines to standard output
(`lines.Said`). It ends with its input: its stages are freed then, and where that does not come to
an end it kills itself. So nothing is left by a reader's side that is gone, whatever ended it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import trio

from pyvmm.demo.house.lines import LONGEST, Alive, Asked, Said, asked, line_of
from pyvmm.demo.house.serving import Serving
from pyvmm.demo.telling.orders import StageLost
from pyvmm.typed_values import UnfitValueError

HEARTBEAT = 5.0
"""Seconds between two lines that say that this process is there."""
LAST_PATIENCE = 5.0
"""Seconds that freeing everything may take after the end of the input."""
_RECEIVE = 64 << 10
_PR_SET_PDEATHSIG = 1


class _Wire:
    """Standard input and output as they were at the start; both are something harmless then."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        self._lock = threading.Lock()
        empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(empty, 0)
        os.close(empty)
        # What a library prints is no line of ours.
        os.dup2(2, 1)

    def say(self, word: Said) -> None:
        """Write a word's line; a reader's side that is gone is noticed at the input."""
        data = memoryview(line_of(word))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except BrokenPipeError:
                pass

    def listen(self, take: Callable[[Asked], None], end: Callable[[str], None]) -> None:
        """Hand each order to `take`, and at the end of the input say why to `end`."""
        buffer = bytearray()
        why = ""
        while not why:
            data = os.read(self._in, _RECEIVE)
            buffer += data
            if not data:
                break
            while not why and b"\n" in data:
                line, _, rest = bytes(buffer).partition(b"\n")
                buffer, data = bytearray(rest), rest
                try:
                    take(asked(line))
                except UnfitValueError as error:
                    why = f"the process of a stage was told nonsense: {error}"
            if len(buffer) >= LONGEST:
                why = "the process of a stage was told a line that is too long"
        end(why)
        threading.Event().wait(LAST_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    def beat(self) -> None:
        """Say now, and then and again, that this process is there."""
        never = threading.Event()
        self.say(Alive())
        while not never.wait(HEARTBEAT):
            self.say(Alive())


async def _serve(wire: _Wire) -> str:
    """Serve until the input ends: "", or why it was given up."""
    sender, receiver = trio.open_memory_channel[Asked](float("inf"))
    token = trio.lowlevel.current_trio_token()
    ended: list[str] = []
    async with trio.open_nursery() as nursery:

        def end(why: str) -> None:
            ended.append(why)
            token.run_sync_soon(nursery.cancel_scope.cancel)

        def listen() -> None:
            with suppress(trio.RunFinishedError):
                wire.listen(lambda order: token.run_sync_soon(sender.send_nowait, order), end)

        threading.Thread(target=listen, name="orders", daemon=True).start()
        serving = Serving(nursery)
        async for order in receiver:
            answer = await serving.answer(order)
            try:
                wire.say(answer)
            except UnfitValueError as error:
                wire.say(StageLost(f"what came of it cannot be told: {error}", answer.ticket))
    return ended[0]


def main() -> int:
    """Serve standard input; 0 at its end."""
    # A terminal's Ctrl-C is not for us: stages are freed when the reader's side closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One that crashes leaves no file, unless a road of an attack is to write one.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    wire = _Wire()
    threading.Thread(target=wire.beat, name="heartbeat", daemon=True).start()
    why = trio.run(_serve, wire, restrict_keyboard_interrupt_to_checkpoints=True)
    if why:
        sys.stderr.write(f"{why}\n")
    return 1 if why else 0


if __name__ == "__main__":
    # The kernel ends us with the thread that started us (prctl(2)). In a lab that is not the
    # reader's side, and may end before it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.exit(main())
