# SPDX-License-Identifier: MIT
"""State that a machine's threads share: whether it runs, is paused, or has ended, and why.

One `RunControl` per machine. vCPU threads read `attention` before every entry; everything else is
under its condition. Whoever changes the state sets it first and kicks the vCPUs after, and a kick
that comes before a run makes that run return at once, so no request is ever slept through.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import trio

from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.ending import Ending, EndingKind

VcpuCall = Callable[[Vcpu], None]


class Hit(NamedTuple):
    """Stop of a vCPU before the instruction at a linear `address`; `stepped`: a step."""

    vcpu: int
    address: int
    stepped: bool = False


class RunControl:
    """The run state of one machine. Made in a trio task; used from any thread.

    A vCPU thread may also wait outside of the guest (for room in the console): `release` lets such
    threads go, when they are to stop; `hold` lets them wait again.
    """

    def __init__(
        self,
        cpus: int,
        release: Callable[[], None],
        hold: Callable[[], None],
        *,
        paused: bool = False,
        reboots: bool = False,
    ) -> None:
        """`paused`: the vCPUs wait for `resume` before their first instruction.

        `reboots`: somebody makes the resets that the guest asks for (`reset_asked`); without, the
        first one ends the run.
        """
        self.attention = paused or cpus > 1
        """True while a vCPU thread has to look at the state before it enters the guest."""
        self.ending: Ending | None = None
        self.failure: BaseException | None = None
        self.interventions = 0
        """Count of the requests for a stop or a call; it only grows."""
        self._cpus = cpus
        self._releases = [release]
        self._hold = hold
        self._token = trio.lowlevel.current_trio_token()
        self._condition = threading.Condition(threading.Lock())
        self._vcpus: dict[int, Vcpu] = {}
        self._calls: dict[int, deque[VcpuCall]] = {index: deque() for index in range(cpus)}
        self._paused = paused
        self._frozen = 0
        self._missing = cpus
        self._thawed: trio.Event | None = None
        self._parked: set[int] = set()
        self._halted: set[int] = set()
        self._pause_pending: trio.Event | None = None
        self._reboots = reboots
        self._reset_asked = False
        self._reset_event = trio.Event()
        self._resetting = False
        self._left_out: frozenset[int] = frozenset()
        self._hits: list[Hit] = []
        self._tell_hits: Callable[[list[Hit]], None] = lambda _hits: None
        self.resets = 0
        """Count of the times the machine has been put back to its start."""

    def release_too(self, release: Callable[[], None]) -> None:
        """Call `release` as well when vCPU threads are to stop waiting; it reads `attention`."""
        self._releases.append(release)

    def tell_breakpoints(self, tell: Callable[[list[Hit]], None]) -> None:
        """Have `tell` called in the trio thread when breakpoints or steps paused the machine."""
        self._tell_hits = tell

    # -- vCPU threads come and go --

    def enter(self, index: int, vcpu: Vcpu) -> None:
        """A vCPU is there and can be kicked from now on. None runs before all of them are there.

        Otherwise a guest could send a start-up IPI to one that is not, and wait for it for ever.
        """
        with self._condition:
            self._vcpus[index] = vcpu
            self._missing -= 1
            if not self._missing:
                self._let_go()

    def leave(self, index: int) -> None:
        """A vCPU is about to be closed: after this nobody kicks it."""
        with self._condition:
            self._vcpus.pop(index, None)

    def halt(self, index: int) -> bool:
        """A vCPU has halted for good. True when it was the last one that ran."""
        with self._condition:
            self._halted.add(index)
            return len(self._halted) == self._cpus

    def sleep(self) -> None:
        """On a halted vCPU's thread: wait until there is something to look at."""
        with self._condition:
            self._condition.wait_for(lambda: self.attention)

    # -- the end --

    @property
    def is_over(self) -> bool:
        """True once the run has an ending or has failed."""
        return self.ending is not None or self.failure is not None

    def end(self, ending: Ending) -> None:
        """End the run; the first ending counts. From any thread."""
        with self._condition:
            if not self.is_over:
                self.ending = ending
                self._stop()
                self._settle_pause()
                self._settle_thaw()

    def fail(self, failure: BaseException) -> None:
        """End the run because pyvmm or the host failed. From any thread."""
        with self._condition:
            if self.failure is None:
                self.failure = failure
            self._stop()
            self._settle_pause()
            self._settle_thaw()

    def kick_all(self) -> None:
        """Kick every vCPU that still runs, once more."""
        with self._condition:
            self._stop()

    def _stop(self) -> None:
        """Get every vCPU thread to look at the state. Under the condition, state set before."""
        self.attention = True
        for vcpu in self._vcpus.values():
            vcpu.kick()
        for release in self._releases:
            release()
        self._condition.notify_all()

    def idle_marks(self) -> list[int] | None:
        """Collect `Vcpu.idle_mark` of each vCPU; None if one executes, or is not there."""
        with self._condition:
            marks = [vcpu.idle_mark() for vcpu in self._vcpus.values()]
        known = [mark for mark in marks if mark is not None]
        return known if len(known) == self._cpus else None

    # -- pause and resume --

    @property
    def is_paused(self) -> bool:
        """True while the machine is told to pause."""
        return self._paused

    @property
    def is_held(self) -> bool:
        """True while vCPUs stand still on request."""
        return self._may_not_run or bool(self._left_out)

    async def pause(self) -> None:
        """Stop every vCPU between two instructions, and wait until all have. Idempotent.

        Returns early when the run ends or is resumed meanwhile.
        """
        await trio.lowlevel.checkpoint()
        with self._condition:
            if self.is_over:
                return
            self.interventions += 1
            self._paused = True
        while self._paused and not self.is_over and not await self._all_parked():
            pass

    def ask_pause(self) -> None:
        """Tell every vCPU to stop, from any thread: none enters the guest before `resume`.

        It waits for none of them; `pause` does afterwards.
        """
        with self._condition:
            if not self.is_over:
                self.interventions += 1
                self._paused = True
                self._stop()

    def resume(self, only: Collection[int] | None = None) -> None:
        """Let the vCPUs run on, or some of a paused machine's. Idempotent."""
        with self._condition:
            everybody = range(self._cpus)
            self._left_out = frozenset(everybody).difference(everybody if only is None else only)
            self._paused = False
            self._let_go()

    def _let_go(self) -> None:
        """Let whoever may run do so, and tell who waits for a pause. Under the condition."""
        self._settle_pause()
        self._go_on()
        self._condition.notify_all()

    def hit_breakpoint(self, index: int, address: int, *, stepped: bool = False) -> None:
        """On a vCPU's thread, which has come to one or has made a step: pause the machine.

        A `resume` that was meant for something before does not take the pause away: it is one from
        when it is told on.
        """
        with self._condition:
            if not self.is_over:
                self.interventions += 1
                self._hits.append(Hit(index, address, stepped))
                self._stop()

    def _pause_for_hits(self) -> None:
        """In the trio thread, when every vCPU has stopped."""
        with self._condition:
            hits, self._hits = self._hits, []
            if self.is_over or not hits:
                return
            self._paused = True
        self._tell_hits(hits)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Inside of it no vCPU executes an instruction, whatever `resume` says meanwhile.

        It waits for the end of a reset, unless the run is over.
        """
        while self._resetting and not self.is_over:
            await self._thaw()
        async with self._freeze():
            yield

    @asynccontextmanager
    async def _freeze(self) -> AsyncIterator[None]:
        with self._condition:
            self.interventions += 1
            self._frozen += 1
        try:
            while not self.is_over and not await self._all_parked():
                pass
            yield
        finally:
            with self._condition:
                self._frozen -= 1
                self._let_go()
            if not self._frozen:
                self._resetting = False
                self._look_again()

    async def _all_parked(self) -> bool:
        """Have every vCPU stop, and wait for it. False where something came between."""
        with self._condition:
            if self.is_over:
                return False
            if len(self._parked) == self._cpus:
                return True
            if self._pause_pending is None:
                self._pause_pending = trio.Event()
            pending = self._pause_pending  # Whoever else is waiting waits for the same.
            self._stop()
        await pending.wait()
        return len(self._parked) == self._cpus

    @property
    def _may_not_run(self) -> bool:
        return (
            self._paused
            or self._frozen > 0
            or self._reset_asked
            or self._missing > 0
            or bool(self._hits)
        )

    async def _thaw(self) -> None:
        """Wait for the end of a reset or of being frozen, or of the run."""
        if self._thawed is None:
            self._thawed = trio.Event()
        # Behind that: who ends the run looks afterwards whether somebody waits.
        if not self.is_over:
            await self._thawed.wait()

    def _look_again(self) -> None:
        """Wake who waits in `_thaw`. In the trio thread."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    def _settle_thaw(self) -> None:
        """Wake who waits in `_thaw`, if anybody does: trio is not woken for nothing."""
        if self._thawed is not None:
            self._in_trio(self._look_again)

    # -- resets --

    @asynccontextmanager
    async def resetting(self) -> AsyncIterator[None]:
        """As `frozen`; it waits until nobody is inside of that, and keeps everybody out.

        So who is inside of `frozen` waits here for itself: until the run is over.
        """
        while self._frozen and not self.is_over:
            await self._thaw()
        self._resetting = True
        async with self._freeze():
            yield

    def guest_reset(self) -> None:
        """The guest resets its machine: no vCPU enters it before `reset_done`, or ever again.

        From any thread.
        """
        if not self._reboots:
            self.end(Ending(EndingKind.RESET, "the guest reset its machine"))
            return
        with self._condition:
            if not self._reset_asked and not self.is_over:
                self._reset_asked = True
                self._stop()
                self._in_trio(self._reset_event.set)

    async def reset_asked(self) -> None:
        """Wait until there is a reset to be made that has been asked for."""
        while not self._reset_asked:
            await self._reset_event.wait()
            self._reset_event = trio.Event()

    @property
    def reset_is_asked(self) -> bool:
        """True from `guest_reset` to `reset_done`."""
        return self._reset_asked

    def reset_done(self) -> None:
        """The machine is as at its start; inside of `resetting`, whose end lets the vCPUs run."""
        with self._condition:
            self._reset_asked = False
            self.resets += 1

    def _settle_pause(self) -> None:
        """Wake who waits for a pause: it is complete, or never will be. Under the condition."""
        if self._pause_pending is not None:
            self._in_trio(self._pause_pending.set)
            self._pause_pending = None

    def _go_on(self) -> None:
        """Nothing more to look at, unless there is. Under the condition."""
        if not self.is_over and not self._may_not_run and not any(self._calls.values()):
            self.attention = False
            self._hold()

    def call(self, index: int, function: VcpuCall) -> None:
        """Have `function` called with the vCPU, on its thread, between two entries."""
        with self._condition:
            self.interventions += 1
            self._calls[index].append(function)
            self._stop()

    def attend(self, index: int, vcpu: Vcpu) -> bool:
        """On a vCPU's thread: do what is asked; wait out a pause. False when the run is over."""
        stood_still = False
        while True:
            with self._condition:
                call = self._calls[index].popleft() if self._calls[index] else None
                if call is None:
                    if self.is_over:
                        return False
                    if not self._may_not_run and index not in self._left_out:
                        self._go_on()
                        break
                    # Waiting for the others at the start is no pause.
                    stood_still = stood_still or not self._missing
                    self._park(index)
            if call is not None:
                call(vcpu)
        if stood_still:
            vcpu.has_stood_still()
        return True

    def _park(self, index: int) -> None:
        """Wait until there is something to do. Under the condition."""
        self._parked.add(index)
        if len(self._parked) == self._cpus:
            self._settle_pause()
            if self._hits:
                self._in_trio(self._pause_for_hits)
        self._condition.wait_for(
            lambda: (
                not (self._may_not_run or index in self._left_out)
                or self.is_over
                or bool(self._calls[index])
            )
        )
        self._parked.discard(index)

    def _in_trio(self, function: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)
