# SPDX-License-Identifier: MIT
"""Running a comparison in trio: its progress is shown, and a signal ends it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pyvmm.cli.ending_signals import EndingSignals, ending_signals
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    import trio

R = TypeVar("R")
Tell = Callable[[str, int, int], None]
"""Called with what is being done, how many runs are over, and how many there are."""
_RUNS_MAX = 1000


def check_runs(runs: int, least: int) -> None:
    """Raise `UsageError` where that many timed runs cannot be."""
    if not least <= runs <= _RUNS_MAX:
        raise UsageError(
            f"make {runs} timed runs", "that cannot be", f"give {least} to {_RUNS_MAX}"
        )


def qemu_programs(given: Sequence[str] | None, default: str) -> tuple[str, ...]:
    """The programs of --qemu, each once. Raises `UsageError` for an empty path."""
    programs = tuple(dict.fromkeys(given or (default,)))
    if "" in programs:
        raise UsageError("start QEMU", "its path is empty", "give --qemu a path or leave it out")
    return programs


def compared(work: Callable[[Tell], Awaitable[R]], ending: EndingSignals) -> R:
    """The result of `work`. Raises `KeyboardInterrupt` where a signal has ended it."""
    import trio

    from pyvmm.cli.progress import Progress

    progress = Progress()
    try:
        return trio.run(_run, work, ending, progress.tell)
    finally:
        progress.done()


async def _run(work: Callable[[Tell], Awaitable[R]], ending: EndingSignals, tell: Tell) -> R:
    import trio

    from pyvmm.cli.taken_signals import taken_signals

    failure: Exception | None = None
    found: list[R] = []
    interrupted: list[int] = []
    with taken_signals(*ending_signals()) as signals:
        ending.raise_held()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, signals, interrupted, nursery.cancel_scope)
            try:
                found.append(await work(tell))
            except Exception as error:  # noqa: BLE001 - raised below, without a group
                failure = error
            nursery.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt(f"interrupted by {signal.Signals(interrupted[0]).name}")
    if failure is not None:
        raise failure
    return found[0]


async def _watch(signals: AsyncIterator[int], seen: list[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        seen.append(number)
        scope.cancel()
