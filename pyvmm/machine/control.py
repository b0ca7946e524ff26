"""What a machine's threads share: whether it runs, is paused, or has ended, and why.

One `RunControl` per machine. vCPU threads read `attention` before every entry; everything else is
under its condition. Whoever changes the state sets it first and kicks the vCPUs after, and a kick
that comes before a run makes that run return at once, so no request is ever slept through.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.ending import Ending

VcpuCall = Callable[[Vcpu], None]


class RunControl:
    """The run state of one machine. Made in a trio task; used from any thread.

    A vCPU thread may also wait outside of the guest (for room in the console): `release` lets such
    threads go, when they are to stop; `hold` lets them wait again.
    """

    def __init__(self, cpus: int, release: Callable[[], None], hold: Callable[[], None]) -> None:
        self.attention = False
        """Whether a vCPU thread has to look at the state before it enters the guest."""
        self.ending: Ending | None = None
        self.failure: BaseException | None = None
        self._cpus = cpus
        self._release = release
        self._hold = hold
        self._token = trio.lowlevel.current_trio_token()
        self._condition = threading.Condition(threading.Lock())
        self._vcpus: dict[int, Vcpu] = {}
        self._calls: dict[int, deque[VcpuCall]] = {index: deque() for index in range(cpus)}
        self._paused = False
        self._parked: set[int] = set()
        self._all_parked = trio.Event()

    # -- vCPU threads come and go --

    def enter(self, index: int, vcpu: Vcpu) -> None:
        """A vCPU is about to run and can be kicked from now on."""
        with self._condition:
            self._vcpus[index] = vcpu

    def leave(self, index: int) -> None:
        """A vCPU is about to be closed: after this nobody kicks it."""
        with self._condition:
            self._vcpus.pop(index, None)

    # -- the end --

    @property
    def is_over(self) -> bool:
        """Whether the run has an ending or has failed."""
        return self.ending is not None or self.failure is not None

    def end(self, ending: Ending) -> None:
        """End the run; the first ending counts. From any thread."""
        with self._condition:
            if self.is_over:
                return
            self.ending = ending
            self._stop_locked()
        self._release()

    def fail(self, failure: BaseException) -> None:
        """End the run because pyvmm or the host failed. From any thread."""
        with self._condition:
            if self.failure is None:
                self.failure = failure
            self._stop_locked()
        self._release()

    def _stop_locked(self) -> None:
        self.attention = True
        for vcpu in self._vcpus.values():
            vcpu.kick()
        self._condition.notify_all()

    def kick_all(self) -> None:
        """Kick every vCPU that still runs, once more."""
        with self._condition:
            self._stop_locked()

    # -- pause and resume --

    @property
    def is_paused(self) -> bool:
        """Whether the machine has been told to pause."""
        return self._paused

    async def pause(self) -> None:
        """Stop every vCPU between two instructions, and wait until all have. Idempotent."""
        with self._condition:
            if self.is_over:
                return
            self._paused = True
            self._all_parked = trio.Event()
            if len(self._parked) == self._cpus:
                self._all_parked.set()
            self._stop_locked()
        self._release()
        await self._all_parked.wait()

    def resume(self) -> None:
        """Let the vCPUs run on. Idempotent."""
        with self._condition:
            self._paused = False
            self.attention = self.is_over
            if not self.is_over:
                self._hold()
            self._condition.notify_all()

    def call(self, index: int, function: VcpuCall) -> None:
        """Have `function` called with the vCPU, on its thread, between two entries."""
        with self._condition:
            self._calls[index].append(function)
            self._stop_locked()

    def attend(self, index: int, vcpu: Vcpu) -> bool:
        """On a vCPU's thread: do what is asked; wait out a pause. False when the run is over."""
        while True:
            with self._condition:
                call = self._calls[index].popleft() if self._calls[index] else None
                if call is None:
                    if self.is_over:
                        if self._paused:  # Then `pause` may be waiting for this thread.
                            self._in_trio(self._all_parked.set)
                        return False
                    if not self._paused:
                        self.attention = any(self._calls.values())
                        return True
                    self._park_locked(index)
            if call is not None:
                call(vcpu)

    def _park_locked(self, index: int) -> None:
        self._parked.add(index)
        if len(self._parked) == self._cpus:
            self._in_trio(self._all_parked.set)
        self._condition.wait_for(
            lambda: not self._paused or self.is_over or bool(self._calls[index])
        )
        self._parked.discard(index)

    def _in_trio(self, function: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)
