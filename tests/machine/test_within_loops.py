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
from pyvmm.machine.blocking import BlockingMachine, run
from pyvmm.machine.config import HostChoice, MachineConfig
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
    with BlockingMachine(small(PRINT_AND_SPIN)) as machine:
        assert machine.wait_for_output(b"OK", HANG)
        machine.interrupt()
        assert machine.wait(HANG).ending.status is None


@pytest.mark.parametrize("act", [whole_run, steered])
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


def test_within_trio() -> None:
    async def main() -> None:
        whole_run()
        await trio.lowlevel.checkpoint()

    trio.run(main)


def test_by_itself() -> None:
    with unchanged():
        whole_run()
        steered()


def test_ctrl_c_while_it_runs_ends_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: BlockingMachine, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingMachine, "wait", interrupted)
    with unchanged(), pytest.raises(KeyboardInterrupt):
        run(small(PRINT_AND_SPIN))


def test_a_failure_of_the_host_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostLacksError("open it", "the test says no")

    monkeypatch.setattr("pyvmm.machine.assembly.open_host", refuse)
    with pytest.raises(HostLacksError, match="the test says no"):
        run(small(EXIT_42))
