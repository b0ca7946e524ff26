# SPDX-License-Identifier: MIT
"""A command's trio part, up to its end or to a signal that ends the command."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from pyvmm.cli.ending_signals import EndingSignals, ending_signals
from pyvmm.cli.taken_signals import taken_signals

T = TypeVar("T")


class JobSignals:
    """Signals that end nothing: a terminal's new size, a stop, going on.

    `take` is called with each; before it is set they are not acted on.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        """Those of `numbers` that this process was told to ignore stay ignored."""
        self.numbers = tuple(
            number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
        )
        self.take: Callable[[int], None] = lambda _: None


def until_signal(
    ending: EndingSignals,
    main: Callable[[], Awaitable[T]],
    jobs: JobSignals | None = None,
) -> T:
    """Run `main` to its end; its result. At a signal it is cancelled and frees what it has.

    Raises `KeyboardInterrupt` then.
    """
    ending.hold()
    jobs = jobs or JobSignals()
    run = _Run(main, jobs, (*ending_signals(), *jobs.numbers))
    trio.run(run.watched, ending)
    if run.failure is not None:
        raise run.failure
    if not run.results:
        raise KeyboardInterrupt(f"interrupted by {signal.Signals(run.interruptions[0]).name}")
    return run.results[0]


class _Run(Generic[T]):
    """One run: what came of it."""

    def __init__(
        self, main: Callable[[], Awaitable[T]], jobs: JobSignals, numbers: tuple[int, ...]
    ) -> None:
        self._main = main
        self._jobs = jobs
        self._numbers = numbers
        self.failure: Exception | None = None
        self.interruptions: list[int] = []
        self.results: list[T] = []

    async def watched(self, ending: EndingSignals) -> None:
        with taken_signals(*self._numbers) as signals:
            ending.raise_held()
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async for number in signals:
                        if number in self._jobs.numbers:
                            self._jobs.take(number)
                        else:
                            self.interruptions.append(number)
                            nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                try:
                    self.results.append(await self._main())
                except Exception as error:  # noqa: BLE001 - raised by who runs it, without a group
                    self.failure = error
                nursery.cancel_scope.cancel()
