# SPDX-License-Identifier: MIT
"""Signals that were ignored or blocked when the command began, as under nohup."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from pyvmm.cli.ending_signals import interrupting_signals

from .command import ending, finish, start

FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
ALL = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP} - FAULTS


def all_ignored() -> None:
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)


def all_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def children_ignored() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


EVERY = (all_ignored, all_blocked, children_ignored)
every = pytest.mark.parametrize("inherited", EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("host", [pytest.param("kvm", marks=pytest.mark.kvm), "model"])
@every
def test_a_run_ends_as_ever(inherited: Callable[[], None], host: str) -> None:
    """A time limit: vCPUs are kicked by a signal."""
    for seconds in ("0.3", "3", "30"):
        process = start("run", "hang", "--timeout", seconds, "--host", host, preparation=inherited)
        with ending(process):
            outcome = finish(process)
        assert outcome.code == 124
        if outcome.out:  # On a busy machine the guest may not get that far in so short a time.
            break
    assert outcome.out == b"hanging\n"


@pytest.mark.slow
@pytest.mark.kvm
@pytest.mark.parametrize("inherited", [all_ignored, all_blocked])
def test_what_is_ignored_or_blocked_stays_so(inherited: Callable[[], None]) -> None:
    with ending(start("run", "hang", "--timeout", "2", preparation=inherited)) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"hanging\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(number)
        assert finish(process).code == 124


@pytest.mark.slow
@pytest.mark.qemu
@every
def test_children_are_waited_for(inherited: Callable[[], None]) -> None:
    arguments = ("compare", "exit", "--runs", "0", "--accel", "tcg", "--host", "model", "-m16M")
    with ending(start(*arguments, preparation=inherited)) as process:
        outcome = finish(process)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_goes_on_under_nohup(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupting_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(KeyboardInterrupt), interrupting_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
