# SPDX-License-Identifier: MIT
"""All vCPU threads of a machine, from the first instruction to the last join."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import ImplicitPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.vcpu_thread import Allow, VcpuThread

if TYPE_CHECKING:
    from pyvmm.hosts.raw_exits import OnUnknown

KICK_AGAIN = 0.25
"""Seconds between two looks whether a vCPU has not answered a kick and needs another."""
KICKS = 40
"""Kicks after which a vCPU thread is given up."""


class VcpuThreads(Owner):
    """One thread for each vCPU; made in the machine's trio thread, which closes it."""

    def __init__(
        self,
        config: MachineConfig,
        control: RunControl,
        assembly: Assembly,
        console: ConsolePort,
        allow: Allow,
        *,
        unknown: OnUnknown | None = None,
    ) -> None:
        self._config = config
        self._control = control
        self._done = trio.Event()
        self._left = config.cpus
        token = trio.lowlevel.current_trio_token()
        self.threads = [
            VcpuThread(
                index,
                assembly.create_vcpu,
                control=control,
                board=assembly.board,
                console=console,
                memory=assembly.memory,
                allow=allow,
                unknown=unknown,
                on_done=lambda: token.run_sync_soon(self._one_done),
                report_always=config.report_always,
            )
            for index in range(config.cpus)
        ]

    def _one_done(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def run(self, deadline: float) -> None:
        """Until all have done; they are told to end at `deadline` (trio's clock).

        Raises `InternalError` where one does not answer.
        """
        for thread in self.threads:
            thread.start()
        try:
            await self._wait(deadline)
        finally:
            self._control.end(Ending(EndingKind.CLOSED, "the run was cancelled"))
            # Not cancellable, but bounded.
            with trio.CancelScope(shield=True):
                await self._wait(float("inf"))

    def close(self) -> None:
        """Join the threads, unless one had to be given up. A second call does nothing.

        Not in `run`: a thread that has just said that it has done has the interpreter lock yet, and
        who waits for it at once takes turns with it.
        """
        if self._done.is_set():
            for thread in self.threads:
                thread.join()

    async def _wait(self, deadline: float) -> None:
        kicks = 0
        while not self._done.is_set():
            if self._control.is_over:
                # One kick is enough unless something is wrong; then more may help.
                if kicks == KICKS:
                    raise InternalError("stop the vCPUs", f"no answer to {KICKS} kicks")
                kicks += 1
                self._control.kick_all()
            elif trio.current_time() >= deadline:
                self._control.end(
                    Ending(
                        EndingKind.TIME_LIMIT,
                        f"the guest was still running after {self._config.timeout:g} s",
                    )
                )
            until = deadline if not self._control.is_over else float("inf")
            with trio.move_on_at(min(until, trio.current_time() + KICK_AGAIN)):
                await self._done.wait()


def allow_by_policy(private: PrivateConfig | None, asked: Allow | None) -> Allow:
    """Return what decides on conversions that the guest did not announce; `asked` for ASK.

    Raises `UsageError` where nobody is there to be asked.
    """
    policy = ImplicitPolicy.REFUSE if private is None else private.implicit
    if policy is ImplicitPolicy.ASK:
        if asked is None:
            raise UsageError(
                "make a machine that asks about conversions",
                "nobody is there to be asked",
                "give open_machine a callback as allow",
            )
        return asked
    return lambda _conversion: policy is ImplicitPolicy.HONOUR
