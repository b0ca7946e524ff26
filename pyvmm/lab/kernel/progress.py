# SPDX-License-Identifier: MIT
"""Saying how a build gets on: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_LINE_EVERY = 15.0
_MIB = 1 << 20


class Stage(Protocol):
    """A step of the work under way."""

    def reach(self, done: float) -> None:
        """`done` of the step's total is done."""


class Progress(Protocol):
    """Receiver of a build's reports."""

    def say(self, text: str) -> None:
        """A line for the reader."""

    @contextmanager
    def stage(self, title: str, total: float | None, unit: str) -> Iterator[Stage]:
        """A step of `total` (None: nobody knows) `unit`s, done when the block ends."""
        ...


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        done, total, unit = done / _MIB, total and total / _MIB, "MiB"
    known = f" of {total:.0f}" if total else ""
    return f"{done:.0f}{known} {unit}"


class Lines:
    """Plain lines: one for a step's begin and end, and one now and then in between."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    def say(self, text: str) -> None:
        """See `Progress`."""
        self._stream.write(text + "\n")
        self._stream.flush()

    @contextmanager
    def stage(self, title: str, total: float | None, unit: str) -> Iterator[Stage]:
        """See `Progress`."""
        self.say(f"{title} ...")
        begin = self._clock()
        step = _LineStage(self, title, total, unit, begin)
        yield step
        amount = f"{_amount(step.done, None, unit)}, " if unit else ""
        self.say(f"{title}: done ({amount}{self._clock() - begin:.0f} s)")

    def now(self) -> float:
        """Seconds, of the clock that this was made with."""
        return self._clock()


class _LineStage:
    def __init__(
        self, lines: Lines, title: str, total: float | None, unit: str, now: float
    ) -> None:
        self._lines, self._title, self._total, self._unit = lines, title, total, unit
        self._said = now
        self.done = 0.0

    def reach(self, done: float) -> None:
        self.done = done
        if self._unit and self._lines.now() - self._said >= _LINE_EVERY:
            self._said = self._lines.now()
            self._lines.say(f"{self._title}: {_amount(done, self._total, self._unit)}")


class TerminalBars:
    """rich's progress bars on a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def say(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str, total: float | None, unit: str) -> Iterator[Stage]:
        """See `Progress`."""
        task = self._bars.add_task(title, total=total, amount="")
        step = _BarStage(self._bars, int(task), total, unit)
        yield step
        self._bars.update(task, total=max(step.done, 1), completed=max(step.done, 1))


class _BarStage:
    def __init__(self, bars: Bars, task: int, total: float | None, unit: str) -> None:
        self._bars, self._task, self._total, self._unit = bars, task, total, unit
        self.done = 0.0

    def reach(self, done: float) -> None:
        from rich.progress import TaskID

        self.done = done
        # The expected total is what another build needed: never show it as reached too early.
        shown = done if self._total is None else min(done, self._total * 0.99)
        amount = _amount(done, self._total, self._unit) if self._unit else ""
        self._bars.update(TaskID(self._task), completed=shown, amount=amount)


@contextmanager
def to_stream(stream: TextIO) -> Iterator[Progress]:
    """Bars if `stream` is a terminal, lines otherwise."""
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    with RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        console=Console(file=stream),
    ) as bars:
        yield TerminalBars(bars)
