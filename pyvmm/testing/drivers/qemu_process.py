# SPDX-License-Identifier: MIT
"""One QEMU of a driver: its start at the beginning or at saved state, its events, its end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any

import trio

from pyvmm.compare import qemu_command
from pyvmm.compare.guest_files import memory_file, path_of
from pyvmm.compare.subjects import QemuAccelerator
from pyvmm.errors import InternalError, PyvmmError, UsageError
from pyvmm.hosts.breakpoints import require_breakpoints
from pyvmm.qmp.peer import PATIENCE, QemuError, QemuEvent, QemuPeer, open_qemu, socket_pair
from pyvmm.testing.drivers.console_pipes import ConsolePipes
from pyvmm.testing.drivers.driver import Event, EventName, Outcome
from pyvmm.testing.drivers.gdb_stub import GdbStubError
from pyvmm.testing.drivers.qemu_breakpoints import GDB, QemuBreakpoints
from pyvmm.testing.drivers.qemu_guest import QemuGuest
from pyvmm.testing.drivers.qemu_outcome import broken, out_of_time, outcome_of
from pyvmm.testing.drivers.qemu_saving import QemuSaved, fill_ram, load_devices, save_devices
from pyvmm.testing.drivers.standing_still import StandingStill

_EVENTS = {
    "STOP": EventName.PAUSED,
    "RESUME": EventName.RESUMED,
    "RESET": EventName.RESET,
    "POWERDOWN": EventName.POWERDOWN,
    "GUEST_PANICKED": EventName.PANICKED,
}
_STANDING_STILL = frozenset({"STOP", "RESUME"})
_OVER = frozenset({"shutdown", "guest-panicked"})
_BROKEN = frozenset({"internal-error", "io-error"})
"""Run states (QMP's RunState) that the guest does not come out of."""
_LOOK_PATIENCE = 10.0
_END_PATIENCE = 15.0
_LOG_LIMIT = 1 << 20


class QemuProcess:
    """A QEMU. Whoever makes it calls `close`; `run` is a task of its owner's."""

    def __init__(
        self,
        guest: QemuGuest,
        console: ConsolePipes,
        tell: Callable[[Event], None],
        look: Callable[[], Awaitable[None]],
        booted: float,
    ) -> None:
        """`tell` is told of events; `booted` is the time of the boot, by trio's clock.

        `look` is called when the run is over and QEMU still there: not for an exit with a status.
        """
        self.outcome: Outcome | None = None
        self.failure: PyvmmError | None = None
        self.over = trio.Event()
        """Set when there is an outcome, or a failure, and QEMU is reaped."""
        self._guest = guest
        self._console = console
        self._tell = tell
        self._look = look
        self._booted = booted
        self._peer: QemuPeer | None = None
        self._is_tcg = guest.subject.accelerator is QemuAccelerator.TCG
        self._begun = False
        self._ended = False
        """Set when the guest cannot run on."""
        self._looking = False
        self._quiet = 0
        self._resets = 0
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.breakpoints = QemuBreakpoints(self, guest.files.request.cpus)
        self._still = StandingStill(self)
        self._changing = trio.Lock()
        """Held while the devices are saved, or reset."""
        self._devices: bytes | None = None
        """State of the devices, as long as nothing has run since it was saved."""
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.ram = stack.enter_context(memory_file("ram", size=guest.files.request.memory))
            self._log = stack.enter_context(memory_file("log"))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Give RAM back."""
        self._stack.close()

    async def run(
        self, saved: QemuSaved | None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the guest to its end. Started when it runs (or stands where it was saved standing).

        Raises what keeps it from starting; what comes later is `failure`.
        """
        try:
            with self._scope:
                async with self._qemu(saved) as peer:
                    self._peer = peer
                    await self._begin(peer, saved)
                    self._begun = True
                    task_status.started()
                    self.outcome = await self._until_end(peer)
                    self._ended = True
                    if peer.child.returncode is None:
                        self._looking = True
                        with trio.move_on_after(_LOOK_PATIENCE), suppress(PyvmmError):
                            await self._look()
        except PyvmmError as error:
            if not self._begun:
                raise
            self.failure = error
        finally:
            self._peer = None
            self.over.set()

    async def give_up(self) -> None:
        """End it, if it was begun; it is reaped then."""
        if self._begun:
            with trio.CancelScope(shield=True):
                await self.end()

    async def end(self) -> None:
        """End it at once; it is reaped when this returns."""
        self._scope.cancel()
        await self.over.wait()

    async def ask(
        self,
        attempt: str,
        command: str,
        arguments: Mapping[str, object] | None = None,
        patience: float = PATIENCE,
    ) -> Any:
        """Run a QMP command; events that came before its answer are told when this returns.

        Raises `InternalError` where the run is over, `QmpRefusalError` and `QemuError`.
        """
        peer = self._peer
        if peer is None:
            raise self.ended(attempt)
        try:
            return await peer.execute(command, arguments, patience)
        except QemuError:
            if not self._begun or self._looking or not _ended_in_order(peer):
                raise
            await self.over.wait()
            raise self.ended(attempt) from None
        finally:
            peer.tell_events()

    async def ask_human(self, attempt: str, line: str, vcpu: int) -> str:
        """Run a line of the human monitor, for one vCPU, and return what it prints."""
        cpus = self._guest.files.request.cpus
        if not 0 <= vcpu < cpus:
            raise UsageError(attempt, f"the machine has the vCPUs 0..{cpus - 1}")
        arguments = {"command-line": line, "cpu-index": vcpu}
        return str(await self.ask(attempt, "human-monitor-command", arguments))

    def ended(self, attempt: str) -> PyvmmError:
        """The error for a guest whose run is over: as from pyvmm's own machines."""
        if self.failure is not None:
            return self.failure
        detail = "it was ended" if self.outcome is None else self.outcome.detail
        return InternalError(attempt, f"its run is over: {detail}")

    async def resume(self) -> None:
        """Let the vCPUs run on, once nobody has them stand still."""
        attempt = "let the guest run"
        try:
            async with self._still.alone():
                self._devices = None
                self._quiet += 1
                try:
                    await self.breakpoints.step_over(attempt)
                finally:
                    self._quiet -= 1
                await self.ask(attempt, "cont")
        except GdbStubError:
            # The instruction at the breakpoint may have ended the guest.
            with trio.move_on_after(_END_PATIENCE):
                await self.over.wait()
            if not self.over.is_set():
                raise

    async def stop(self) -> None:
        """Stop the vCPUs, until `resume`."""
        attempt = "stop the guest"

        def told() -> None:
            self._tell(Event(EventName.PAUSED, "", None, self.seconds()))

        await self._still.stop(lambda: self.ask(attempt, "stop"), told)

    async def set_breakpoint(self, address: int) -> None:
        """Stop before what is at the linear `address`. Raises `GdbStubError` for one too many.

        And `UsageError` for what is no address.
        """
        attempt = f"set a breakpoint at {address:#x}"
        if address not in self.breakpoints.addresses:
            require_breakpoints((address,), 1)
            async with self.standing_still(attempt):
                await self.breakpoints.insert(attempt, address)

    async def clear_breakpoint(self, address: int) -> None:
        """Take it away. Raises `UsageError` where there is none."""
        attempt = f"clear the breakpoint at {address:#x}"
        if address not in self.breakpoints.addresses:
            raise UsageError(attempt, "there is none")
        async with self.standing_still(attempt):
            await self.breakpoints.remove(address)

    def standing_still(self, attempt: str) -> AbstractAsyncContextManager[bool]:
        """Keep the vCPUs stopped for the block, which gets True if they ran. Nobody is told.

        Blocks overlap and nest.
        """
        return self._still.block(attempt)

    async def is_running(self, attempt: str) -> bool:
        """Tell whether the vCPUs run."""
        return (await self.ask(attempt, "query-status"))["running"] is True

    async def halt(self, attempt: str) -> None:
        """Stop the vCPUs: for `standing_still`."""
        await self.ask(attempt, "stop")

    async def go_on(self, attempt: str) -> None:
        """Let the vCPUs run on, unless the guest has ended: for `standing_still`."""
        if not self._ended:
            self._devices = None
            await self.ask(attempt, "cont")

    def set_quiet(self, quiet: bool) -> None:
        """Tell of no stop and no going on as long as somebody has set this."""
        self._quiet += 1 if quiet else -1

    async def reset(self, attempt: str) -> None:
        """Reset the machine, which runs on if it ran."""
        async with self.standing_still(attempt), self._changing:
            seen = self._resets
            # Not half of it: a reset of the guest's own ends the run; this one does not.
            with trio.CancelScope(shield=True):
                await self.ask(attempt, "set-action", {"reboot": "reset"})
                await self.ask(attempt, "system_reset")
                while self._resets == seen:
                    # The answer came before the reset itself, which QEMU's main loop makes next.
                    await self.ask(attempt, "query-status")
                await self.ask(attempt, "set-action", {"reboot": "shutdown"})
            self._devices = None

    async def devices(self, attempt: str) -> bytes:
        """State of all but RAM, of a machine that stands still."""
        async with self._changing:
            if self._devices is None:
                with memory_file("devices") as file:
                    self._devices = await save_devices(self._asker(attempt), file)
            return self._devices

    def seconds(self) -> float:
        """Count the seconds since the boot."""
        return trio.current_time() - self._booted

    def _asker(self, attempt: str) -> Callable[[str, Mapping[str, object]], Any]:
        return lambda command, arguments: self.ask(attempt, command, arguments)

    @asynccontextmanager
    async def _qemu(self, saved: QemuSaved | None) -> AsyncIterator[QemuPeer]:
        guest, files = self._guest, self._guest.files
        initrd = None if files.initrd is None else path_of(files.initrd)
        command = qemu_command.inspected(
            guest.subject, files.request, path_of(files.image), initrd, path_of(self.ram)
        )
        command += ("-no-shutdown",)  # What is left of it then is looked at.
        command += guest.cards
        if self._is_tcg:
            command += ("-d", "cpu_reset", "-D", path_of(self._log))
        if saved is not None:
            command += ("-incoming", "defer")
            fill_ram(self.ram, saved)
        near, theirs = socket_pair("connect to QEMU's gdbstub")
        with trio.socket.from_stdlib_socket(near) as ours, theirs:
            self.breakpoints.connect(trio.SocketStream(ours))
            command += ("-chardev", f"socket,id={GDB},fd={theirs.fileno()}")
            async with open_qemu(
                command,
                pass_fds=(
                    *(*files.inherited, self.ram, self._log, theirs.fileno()),
                    *guest.descriptors,
                ),
                stdin=self._console.child_input,
                stdout=self._console.child_output,
                on_event=self._take,
            ) as peer:
                theirs.close()
                yield peer

    async def _begin(self, peer: QemuPeer, saved: QemuSaved | None) -> None:
        attempt = "start the guest"
        self._quiet += 1
        try:
            if saved is not None:
                with memory_file("devices", saved.devices) as file:
                    await load_devices(self._asker(attempt), file)
            if (saved is None and not self._guest.paused) or (saved is not None and saved.running):
                await self.ask(attempt, "cont")
        except QemuError:
            # The run may be over before QEMU has answered.
            if not _ended_in_order(peer):
                raise
        finally:
            self._quiet -= 1

    async def _until_end(self, peer: QemuPeer) -> Outcome:
        timeout = self._guest.timeout
        state = ""
        with trio.move_on_at(self._booted + timeout):
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await peer.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                state = await self._broken_state(peer)
                nursery.cancel_scope.cancel()
        peer.tell_events()
        code = peer.child.returncode
        if state in _OVER:
            code = 0
        elif state:
            return broken(state, peer.last_lines, self.seconds())
        if code is None:
            return out_of_time(timeout, self.seconds())
        if code < 0:
            raise peer.failure("run the guest under QEMU")
        log = os.pread(self._log, _LOG_LIMIT, 0) if self._is_tcg else None
        return outcome_of(code, peer.events(), self.seconds(), log)

    async def _broken_state(self, peer: QemuPeer) -> str:
        """Wait for a run state that the guest does not come out of."""
        while True:
            await self._stopped.wait()
            self._stopped = trio.Event()
            turn = self.breakpoints.turn
            with suppress(
                QemuError, InternalError
            ):  # It has gone; who waits for that sees it, too.
                state = await peer.query_status()
                if state in _BROKEN | _OVER:
                    return state
                if state == "debug":
                    for vcpu, address in await self.breakpoints.reached(turn):
                        name = EventName.BREAKPOINT
                        self._tell(Event(name, f"{address:#x}", vcpu, self.seconds()))

    def _take(self, event: QemuEvent) -> None:
        if event.name == "RESET":
            self._resets += 1
        if event.name in {"SHUTDOWN", "GUEST_PANICKED"}:
            self._ended = True
        if event.name in _STANDING_STILL:
            if event.name == "STOP":
                self._stopped.set()
                self.breakpoints.note_stop()
            else:
                self.breakpoints.note_resumed()
            if self._quiet or self._ended:
                return
        name = _EVENTS.get(event.name)
        if name is not None:
            self._tell(Event(name, "", None, self.seconds()))


def _ended_in_order(peer: QemuPeer) -> bool:
    """Tell whether QEMU ended as it does when the guest's run is over."""
    return peer.child.returncode is not None and peer.child.returncode >= 0
