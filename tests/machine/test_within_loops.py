# SPDX-License-Identifier: MIT
"""Blocking machines within asyncio's and trio's loops: they work, and the loops do not notice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
import trio

from pyvmm.errors import HostLacksError
from pyvmm.machine.blocking import open_blocking_machine, run
from pyvmm.machine.blocking_objects import BlockingControl
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.steering import MachineState
from tests.machine.guests import EXIT_42, PRINT_AND_SPIN, bundled
from tests.process_state import unchanged

HANG = 240.0


def small(image: bytes) -> MachineConfig:
    return MachineConfig(image, memory=16 << 20, timeout=HANG, host=HostChoice.MODEL)


def whole_run() -> None:
    completed = run(small(bundled("echo")), given=b"hello\n")
    assert completed.output == b"hello\n"
    assert completed.result.ending.status == 0


def steered() -> None:
    with open_blocking_machine(small(PRINT_AND_SPIN)) as machine:
        assert machine.console.wait_for(b"OK", timeout=HANG)
        machine.control.interrupt()
        assert machine.control.wait(timeout=HANG).ending.status is None


def two_at_once() -> None:
    with (
        open_blocking_machine(small(PRINT_AND_SPIN)) as first,
        open_blocking_machine(small(PRINT_AND_SPIN)) as second,
    ):
        for machine in (second, first):
            assert machine.console.wait_for(b"OK", timeout=HANG)
        with first.control.freeze(), second.control.freeze():
            first.control.interrupt()
        assert first.control.wait(timeout=HANG).ending.kind is EndingKind.INTERRUPTED
        assert second.control.state is MachineState.RUNNING


ACTS = [whole_run, steered, two_at_once]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("act", ACTS)
def test_within_asyncio(act: Callable[[], None]) -> None:
    heard: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        # Which gives asyncio the process's one wakeup descriptor.
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "signal")
        with unchanged():
            act()
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop() is loop

    with unchanged():
        asyncio.run(main())
    assert heard == ["signal"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("act", ACTS)
def test_within_trio(act: Callable[[], None]) -> None:
    async def main() -> None:
        act()
        await trio.lowlevel.checkpoint()
        # And on a thread of trio's.
        await trio.to_thread.run_sync(act)

    trio.run(main)


def test_by_itself() -> None:
    with unchanged():
        for act in ACTS:
            act()


def test_ctrl_c_while_it_runs_ends_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: BlockingControl, *, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingControl, "wait", interrupted)
    with unchanged(), pytest.raises(KeyboardInterrupt):
        run(small(PRINT_AND_SPIN))


def test_a_failure_of_the_host_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostLacksError("open it", "the test says no")

    monkeypatch.setattr("pyvmm.machine.assembly.open_host", refuse)
    with pytest.raises(HostLacksError, match="the test says no"):
        run(small(EXIT_42))
