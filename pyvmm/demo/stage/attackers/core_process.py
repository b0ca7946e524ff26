# SPDX-License-Identifier: MIT
"""A process of its own that makes a private machine with a secret, and ends with a core file.

``python -m pyvmm.demo.stage.attackers.core_process``, with one line of JSON on standard input. It
answers with one on standard output, when all is ready for the core: the secret's seed, and no byte
of the secret.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from pyvmm.demo.stage.private_acts import MachineActs
from pyvmm.demo.stage.private_launch import LaunchInputs
from pyvmm.demo.stage.private_machine import PrivateMachine
from pyvmm.demo.stage.private_record import PrivateRecord
from pyvmm.demo.telling.acts import Actor, Convert, HideSecret
from pyvmm.demo.telling.chapter import Setup, StageKind
from pyvmm.errors import PyvmmError
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.memory.conversion import Side
from pyvmm.rules.abi import PAGE_SIZE

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_EVERYTHING = "0x1ff"
"""All kinds of mappings (core(5))."""


@dataclass(frozen=True, slots=True)
class CoreOrder:
    """A machine to be made: sizes in bytes. `shared`: the secret is to lie in a shared page."""

    host: str
    memory: int
    window: int
    gpa: int
    shared: bool

    def line(self) -> str:
        """As a line of JSON, which `from_line` reads."""
        return json.dumps([self.host, self.memory, self.window, self.gpa, self.shared])

    @classmethod
    def from_line(cls, line: str) -> CoreOrder:
        """Read what `line` gave."""
        return cls(*json.loads(line))


class _InCore(LaunchInputs):
    """Inputs of a machine that lets a core have its guest's memory, as far as that is mapped."""

    def config(self, host: HostChoice) -> MachineConfig:
        return replace(super().config(host), dump_guest_core=True)


async def _seed(order: CoreOrder, then: signal.Signals) -> None:
    """Make the machine, tell the secret's seed, and end by a signal."""
    inputs = _InCore.of(Setup(StageKind.PRIVATE, order.memory, order.window))
    async with trio.open_nursery() as nursery:
        machine = await PrivateMachine.open(
            nursery, inputs, HostChoice(order.host), PrivateRecord()
        )
        try:
            acts = MachineActs(machine)
            todo: list[Convert | HideSecret] = [HideSecret(order.gpa)]
            if order.shared:
                page = order.gpa // PAGE_SIZE * PAGE_SIZE
                todo.insert(0, Convert(Actor.GUEST, page, PAGE_SIZE, Side.SHARED))
            await machine.launch()
            for act in todo:
                await acts.prepare(act)
                await acts.do(act)
            seed = None if acts.secret is None else acts.secret.seed
            print(json.dumps({"seed": seed}), flush=True)
            os.kill(os.getpid(), then)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await machine.close()


def _be_generous() -> None:
    """Let the kernel put into the core all that it can."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    Path("/proc/self/coredump_filter").write_text(_EVERYTHING)
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def main() -> int:
    """Do it; does not return where a core is written."""
    order = CoreOrder.from_line(sys.stdin.readline())
    try:
        _be_generous()
        trio.run(_seed, order, signal.SIGABRT)
    except* (PyvmmError, OSError) as failures:
        print(json.dumps({"failed": str(_first(failures))}), flush=True)
    return 1


def _first(failures: BaseExceptionGroup[PyvmmError | OSError]) -> BaseException:
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


if __name__ == "__main__":
    sys.exit(main())
