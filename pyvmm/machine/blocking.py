# SPDX-License-Identifier: MIT
"""Machines for programs that do not use trio: the same objects, whose methods block.

::

    completed = run(MachineConfig(image), given=b"typed ahead")

    with open_blocking_machine(config) as machine:
        machine.console.wait_for(b"login:", timeout=10)
        machine.console.send(b"root\\n")
        result = machine.control.wait()

The objects are made from the asynchronous ones (`generate_blocking`); every method that waits takes
a `timeout`. A machine has a trio loop of its own on a thread of its own, or shares one with others
(`LoopThread`). Leaving the block, by an exception or Ctrl-C too, ends the guest and gives
everything back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.machine.blocking_objects import BlockingMachine, blocking
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.ending import RunResult
from pyvmm.machine.loop_thread import LoopThread
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import Attachment, running
from pyvmm.machine.vcpu_thread import Allow, VcpuThread

if TYPE_CHECKING:
    from pyvmm.hosts.raw_exits import OnUnknown
    from pyvmm.machine.saved_machine import SavedMachine


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished run: its result, and everything that the guest said."""

    result: RunResult
    output: bytes


def run(
    config: MachineConfig,
    given: bytes = b"",
    *,
    allow: Allow | None = None,
    unknown: OnUnknown | None = None,
    loop: LoopThread | None = None,
) -> Completed:
    """Run a guest to its end; `given` is its console input, ended after the last byte.

    `allow`, `unknown` and `loop` are `open_blocking_machine`'s. Raises a `PyvmmError` where the
    host or pyvmm failed. What the guest does wrong is in the result's ending.
    """
    with open_blocking_machine(
        config, Collector(given), allow=allow, unknown=unknown, loop=loop
    ) as machine:
        result = machine.control.wait()
    return Completed(result, machine.console.output)


@contextmanager
def open_blocking_machine(
    config: MachineConfig,
    attach: Attachment | None = None,
    *,
    allow: Allow | None = None,
    unknown: OnUnknown | None = None,
    paused: bool = False,
    saved: SavedMachine | None = None,
    loop: LoopThread | None = None,
) -> Iterator[BlockingMachine]:
    """Make a machine and run its guest inside of the block; as `open_machine`, without trio.

    `loop`, where given, holds the machine beside others, and goes on afterwards: a loop for each
    takes longer. A listener of one machine must not wait for another in the same loop, either.
    Its methods may be called from any thread, but for its listeners'; those that wait not on a
    vCPU's (by `allow` or `unknown`, or what `BlockingVcpu.call` calls) either. They raise
    `InternalError` there, and when it has been closed.
    """
    threads: list[VcpuThread] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Machine]:
        async with running(
            config, attach, allow=allow, unknown=unknown, paused=paused, saved=saved
        ) as inside:
            threads.extend(inside.threads.threads)
            yield inside.machine

    with ExitStack() as stack:
        if loop is None:
            loop = stack.enter_context(LoopThread())
        holding = loop.holding(opened(), lambda: any(thread.is_current for thread in threads))
        yield blocking(stack.enter_context(holding))
