# SPDX-License-Identifier: MIT
"""One machine of a private stage. Between two acts it is paused: nothing changes that one looks at.

Conversions go the long way, because a listener listens that does nothing: so each is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import trio

from pyvmm.boot.launch_format import LAUNCH_REPORT
from pyvmm.demo.stage.mailbox import WHERE, Mail, Mailbox
from pyvmm.demo.stage.private_launch import LaunchInputs
from pyvmm.demo.stage.private_record import PrivateRecord
from pyvmm.devices import ports
from pyvmm.errors import InternalError, PyvmmError
from pyvmm.hosts.exits import Exit, IoOut
from pyvmm.machine.config import HostChoice
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.implicit import ImplicitConversion
from pyvmm.machine.running import Running, running
from pyvmm.memory.address_map import RangeKind
from pyvmm.memory.layout import FIRMWARE_GPA, GpaRange

LIMIT = 60.0
"""Seconds after which a guest that was to do something, or to stop, counts as lost."""
SILENCE = 30.0
"""Seconds after which a guest that was told something does not answer any more."""
_POLL = 0.001
_IN_C = {
    "POSTED_WRITE": "port writes that C took",
    "POSTED_READ": "port reads that C answered",
    "CONVERTED": "conversions that C made",
}
_REPORTED = GpaRange(FIRMWARE_GPA + 16, FIRMWARE_GPA + LAUNCH_REPORT.size - 8)
"""The digest in the launch report."""


class GuestSilentError(InternalError):
    """The guest does not answer: whatever it does, it is not what it was made for."""


class Said:
    """A console that keeps what the guest says until it is taken: the first `MOST` bytes of it."""

    MOST = 4096

    def __init__(self) -> None:
        self.total = 0
        self._kept = bytearray()
        self._first = bytearray()
        self._changed = trio.Event()

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        while data := await port.receive():
            self.total += len(data)
            self._kept += data[: self.MOST - len(self._kept)]
            self._first += data[: self.MOST - len(self._first)]
            self._changed.set()
            self._changed = trio.Event()

    async def reached(self, total: int) -> None:
        """Wait until so many bytes have come."""
        while self.total < total:
            await self._changed.wait()

    @property
    def mailbox(self) -> int | None:
        """GPA of the mailbox, once the guest has told it."""
        found = WHERE.search(self._first)
        return None if found is None else int(found[1], 16)

    def take(self) -> bytes:
        """All since the last call of this, that was kept."""
        taken = bytes(self._kept)
        self._kept.clear()
        return taken


class _Silent:
    """A listener that nothing has to be done for."""

    def leaving(self, range_: GpaRange) -> None:
        """Let it go."""

    def joined(self, range_: GpaRange) -> None:
        """Let it come."""


class PrivateMachine:
    """A machine that a task holds open until `close`. Made by `open`; used by one task.

    `honours` is what a touch that was not announced is answered.
    """

    def __init__(self, inputs: LaunchInputs, record: PrivateRecord) -> None:
        self.inputs = inputs
        self.measured = inputs.digest()
        self.honours = True
        self.said = Said()
        self._record = record
        self._mailbox: Mailbox | None = None
        self._inside: Running | None = None
        self._failure: PyvmmError | None = None
        self._wanted = trio.Event()
        self._gone = trio.Event()

    @classmethod
    async def open(
        cls,
        nursery: trio.Nursery,
        inputs: LaunchInputs,
        host: HostChoice,
        record: PrivateRecord,
    ) -> PrivateMachine:
        """Make one that stands before its first instruction. Raises a `PyvmmError`."""
        made = cls(inputs, record)
        failure = await nursery.start(made._keep, host)
        if failure is not None:
            assert isinstance(failure, PyvmmError)
            raise failure
        try:
            await made._stand_still()  # By then its vCPU is there.
        except BaseException:
            with trio.CancelScope(shield=True):
                await made.close()
            raise
        return made

    async def _keep(
        self,
        host: HostChoice,
        task_status: trio.TaskStatus[PyvmmError | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        is_open = False
        try:
            async with running(
                self.inputs.config(host),
                self.said,
                allow=self._allow,
                paused=True,
                recorder=self._record,
            ) as inside:
                self._inside = inside
                map_ = inside.assembly.address_map
                covered = [one.range for one in map_.ram]
                if map_.has(RangeKind.WINDOW):
                    covered.append(map_.slot(RangeKind.WINDOW).range)
                inside.assembly.memory.regions.listen(_Silent(), covered)
                is_open = True
                task_status.started(None)
                await self._wanted.wait()
        except PyvmmError as error:
            # Its user's, who is another task; that of a run is told by `wait`, too.
            self._failure = error
            if not is_open:
                task_status.started(error)
        finally:
            self._gone.set()

    def _allow(self, _conversion: ImplicitConversion) -> bool:
        return self.honours

    async def close(self) -> None:
        """End the guest and give everything back; a second call does nothing."""
        self._wanted.set()
        await self._gone.wait()

    @property
    def inside(self) -> Running:
        """The machine's inside."""
        assert self._inside is not None
        return self._inside

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""
        return self.inside.assembly.memory

    @property
    def ended(self) -> int | None:
        """Status of the guest that has ended."""
        ending = self.inside.machine.control.ending
        return None if ending is None else int(ending.exit_code)

    @property
    def reported(self) -> bytes:
        """The digest that the firmware reported; b"" as long as it has not."""
        launch = self.inside.assembly.launch
        report = None if launch is None else launch.report
        return b"" if report is None else report.digest

    async def answered_in_c(self) -> Counter[str]:
        """Count what has ended no run of the vCPU's, because C answered it, by what it was."""
        counts: list[Mapping[str, int]] = [{}]
        if self.ended is None:
            await self.inside.machine.vcpus[0].call(
                lambda vcpu: counts.append(dict(vcpu.exit_counts()))
            )
        else:
            counts.append(self.inside.threads.threads[0].exit_counts)
        return Counter({said: counts[-1].get(name, 0) for name, said in _IN_C.items()})

    # -- letting it run --

    async def launch(self) -> bool:
        """Run through the firmware; False where the guest ended instead. It stands still then."""
        if self.inputs.typed:
            await self.inside.machine.console.send(self.inputs.typed)
        reached = _Reached(self.inside)

        def is_last(exit_: Exit) -> bool:
            return type(exit_) is IoOut and exit_.port == ports.LAUNCH

        def then() -> None:
            if self.inputs.forged:
                # The report lies in shared memory: the monitor writes there what it likes.
                self.memory.write(_REPORTED.start, self.inputs.forged)
            reached.stop()

        self._record.watch(is_last, then)
        return await self.run_until(lambda: reached.is_reached)

    async def next_exit(self, is_it: Callable[[Exit], bool], limit: float) -> bool:
        """Run to an exit, and through what the monitor answers; False where none came."""
        reached = _Reached(self.inside)
        self._record.watch(is_it, reached.stop)
        try:
            return await self.run_until(lambda: reached.is_reached, limit)
        finally:
            self._record.forget_watch()

    async def get_ready(self) -> bool:
        """Run until the guest listens at its mailbox; False where it does not come to that."""
        if self._mailbox is None:
            await self.run_until(lambda: self.said.mailbox is not None)
            if (gpa := self.said.mailbox) is not None:
                self._mailbox = Mailbox(self.memory, gpa)
        return self._mailbox is not None

    @property
    def mailbox(self) -> Mailbox | None:
        """The mailbox, once the guest listens there."""
        return self._mailbox

    async def ask(self, command: Mail, *arguments: int) -> int | None:
        """Have the guest do something; its result, or None where it ended over that.

        Raises `GuestSilentError` where it does neither.
        """
        mailbox = self._mailbox
        assert mailbox is not None
        # Somebody else may have written there: then the guest has that to answer first.
        if not mailbox.is_answered and not await self._answered(mailbox):
            return None
        mailbox.post(command, *arguments)
        return mailbox.result if await self._answered(mailbox) else None

    async def _answered(self, mailbox: Mailbox) -> bool:
        """Run until the guest has answered; False where it ended instead."""
        if await self.run_until(lambda: mailbox.is_answered, SILENCE):
            return True
        if self.ended is None:
            raise GuestSilentError("talk to the guest", f"it has not answered for {SILENCE:g} s")
        return False

    async def run_until(self, is_there: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Let it run until something is true, its end, or `limit` seconds; then it is paused.

        Gives what was true then. Raises what made the run fail.
        """
        self.inside.machine.control.resume()
        deadline = trio.current_time() + limit
        # The guest answers in memory, of which nobody is told.
        while not is_there() and not self._is_over and trio.current_time() < deadline:  # noqa: ASYNC110
            await trio.sleep(_POLL)
        await self._stand_still()
        return is_there()

    @property
    def _is_over(self) -> bool:
        return self.inside.control.is_over

    async def _stand_still(self) -> None:
        with trio.move_on_after(LIMIT):
            await self.inside.machine.control.pause()
            if self._is_over:
                await self.inside.machine.control.wait()
            # The guest has said it; the task that passes it on need not have run yet.
            self.inside.assembly.board.drain_posted()
            await self.said.reached(self.inside.machine.console.total)
            return
        raise InternalError("stop the guest", f"it did not within {LIMIT:g} s")


class _Reached:
    """The exit that was waited for: from then on the machine is to stop."""

    def __init__(self, inside: Running) -> None:
        self._inside = inside
        self.is_reached = False

    def stop(self) -> None:
        """Ask for it; on the vCPU's thread, which answers the exit and then stops."""
        self.is_reached = True
        self._inside.control.ask_pause()
