# SPDX-License-Identifier: MIT
"""An exercise line by line: its task, acts as they are typed, and the first goal that is not met.

Solved is what the machine says, whatever was typed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from pyvmm.demo.exercising import Exercising
from pyvmm.demo.telling.acts import parse_act
from pyvmm.demo.terminal import text
from pyvmm.demo.terminal.lines import EMPTY, Line, Tone, wrapped
from pyvmm.demo.terminal.parts import in_order, parts, pictures
from pyvmm.demo.terminal.references import act_lines
from pyvmm.errors import UsageError

Ask = Callable[[str], Awaitable[str | None]]
_HELP = (
    ("h", "the next hint"),
    ("v", "the machine as it is now"),
    ("r", "reset: begin again"),
    ("?", "the task and what may be typed"),
    ("q", "quit"),
)
_WORDS = {"?", "help", "h", "v", "r", "q", ""}


class Solving:
    """One reader of an exercise, line by line."""

    def __init__(self, exercising: Exercising, write: Callable[[str], None], width: int) -> None:
        """`exercising` has not begun."""
        self._exercising = exercising
        self._write = write
        self._width = width
        self._hints = 0

    async def solve(self, ask: Ask) -> bool:
        """Take lines until it is solved, or there are no more; True where it is solved.

        Raises what opening a stage raises, and `StageGoneError`.
        """
        await self._begin()
        while (goal := self._exercising.unmet()) is not None:
            line = await ask("act, ? for help: ")
            if line is None or line.strip() == "q":
                self._say(f"NOT SOLVED: {goal.says}", Tone.REFUSED)
                return False
            try:
                await self._take(line.strip())
            except UsageError as error:
                self._say(f"{error.cause}; {error.remedy}" if error.remedy else error.cause)
        self._say("SOLVED: all that was asked for is true of the machine", Tone.WORKED)
        return True

    async def _begin(self) -> None:
        await self._exercising.begin()
        exercise = self._exercising.exercise
        staged = self._exercising.staged
        assert staged is not None
        where = f"Exercise {exercise.number}, {exercise.id} - on {text.host_words(staged)}"
        self._show(wrapped(where, self._width, Tone.HEAD))
        self._show(text.not_real(staged, self._width))
        self._show([EMPTY, *wrapped(exercise.task, self._width), EMPTY])
        self._machine()

    async def _take(self, line: str) -> None:
        if line not in _WORDS:
            await self._do(line)
            return
        match line:
            case "h":
                self._hint()
            case "r":
                await self._begin()
            case "v":
                self._machine()
            case "?" | "help":
                self._help()

    async def _do(self, line: str) -> None:
        moment = await self._exercising.do(parse_act(line))
        shown = parts(moment, self._width, brief=True, legend=False)
        self._show([*in_order(moment, shown, self._width), EMPTY])
        goal = self._exercising.unmet()
        if goal is not None:
            self._say(f"not yet: {goal.says}")

    def _hint(self) -> None:
        hints = self._exercising.exercise.hints
        at = min(self._hints, len(hints) - 1)
        self._say(f"hint {at + 1} of {len(hints)}: {hints[at]}")
        self._hints += 1

    def _machine(self) -> None:
        now = self._exercising.observed
        for one in pictures(now, now, self._width, legend=False):
            self._show([*one.lines, EMPTY])

    def _help(self) -> None:
        self._show(wrapped(self._exercising.exercise.task, self._width))
        for key, about in _HELP:
            self._show(wrapped(f"{key}  {about}", self._width, first="  ", rest="     "))
        self._show(act_lines(self._exercising.exercise.setup.kind, self._width))

    def _say(self, words: str, tone: Tone = Tone.NOTICE) -> None:
        self._show(wrapped(words, self._width, tone, rest="  "))

    def _show(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._write(line.text)
