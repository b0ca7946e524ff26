# SPDX-License-Identifier: MIT
"""A machine's vCPUs, as its owner may look at them: between two instructions, on their threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Vcpu
from pyvmm.machine.control import RunControl

if TYPE_CHECKING:
    from pyvmm.machine.monitor.register_lines import VcpuRegisters
    from pyvmm.machine.vcpu_thread import VcpuThread

T = TypeVar("T")
ReadMemory = Callable[[int, int], bytes | None]
"""Reads so many bytes of guest memory from a GPA on; None where the host sees no such memory."""


class MachineVcpu:
    """One vCPU of a machine."""

    def __init__(
        self,
        index: int,
        thread: VcpuThread,
        *,
        control: RunControl,
        stopped: trio.Event,
        read: ReadMemory,
    ) -> None:
        """`stopped`: no vCPU's thread runs any more."""
        self._index = index
        self._thread = thread
        self._control = control
        self._stopped = stopped
        self._read = read

    @property
    def index(self) -> int:
        """Number of the vCPU, from 0 on."""
        return self._index

    @property
    def thread_id(self) -> int | None:
        """The system's number of the vCPU's thread; None before it has begun."""
        return self._thread.native_id

    async def call(self, function: Callable[[Vcpu], T]) -> T:
        """Call `function` with the host's vCPU, on its thread, between two instructions.

        Who is cancelled before that has not had it called. Raises what `function` raises, and
        `InternalError` when the run ends first.
        """
        done = trio.Event()
        withdrawn = False
        token = trio.lowlevel.current_trio_token()
        outcome: list[tuple[T | None, BaseException | None]] = []

        def call(vcpu: Vcpu) -> None:
            if withdrawn:
                return
            try:
                outcome.append((function(vcpu), None))
            except BaseException as failure:  # noqa: BLE001 - handed to the one who asked
                outcome.append((None, failure))
            token.run_sync_soon(done.set)

        self._control.call(self._index, call)
        try:
            async with trio.open_nursery() as nursery:

                async def give_up_at_the_end() -> None:
                    await self._stopped.wait()
                    done.set()

                nursery.start_soon(give_up_at_the_end)
                await done.wait()
                nursery.cancel_scope.cancel()
        finally:
            withdrawn = True
        if not outcome:
            raise InternalError(f"look at vCPU {self._index}", "the guest has ended")
        value, failure = outcome[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    async def registers(self) -> VcpuRegisters:
        """Read the registers. Raises `InternalError` when the run ends first."""
        from pyvmm.machine.monitor.register_lines import VcpuRegisters  # Most runs never look.

        def ask(vcpu: Vcpu) -> VcpuRegisters:
            return VcpuRegisters(self._index, vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_further())

        return await self.call(ask)

    async def translate(self, address: int) -> int | None:
        """Translate a linear address by the vCPU's page tables to a GPA.

        None where it is not mapped, or the host cannot see the tables. Raises `InternalError` when
        the run ends first.
        """
        from pyvmm.memory.page_walk import walk

        sregs = (await self.registers()).sregs
        # The lock on guest memory may be held for long.
        return (await trio.to_thread.run_sync(partial(walk, self._read, sregs, address))).gpa
