# SPDX-License-Identifier: MIT
"""Kicks: from any thread, at any time, none lost and none counted twice."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts import exits
from pyvmm.hosts.kvm.binding import lib
from pyvmm.hosts.registers import Regs
from tests.readable import wait_readable

from .flat_guest import COUNT_TO_F1, OUT_F1_FOR_EVER, SPIN, MakeGuest

pytestmark = pytest.mark.kvm


def test_kick_before_run_counts_once(guest: MakeGuest) -> None:
    vcpu = guest(COUNT_TO_F1).vcpu
    vcpu.kick()
    vcpu.kick()
    assert vcpu.run() == exits.Interrupted()
    assert [vcpu.run() for _ in range(3)] == [
        exits.IoOut(0xF1, 1, 1, bytes([value])) for value in range(3)
    ]
    assert vcpu.exit_counts() == {"IO": 3, "INTERRUPTED": 1}


def test_kick_of_a_guest_that_never_exits(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    seen: list[exits.Exit] = []
    thread = threading.Thread(target=lambda: seen.append(vcpu.run()), daemon=True)
    thread.start()
    vcpu.kick()
    thread.join()
    assert seen == [exits.Interrupted()]


def test_a_kick_during_run_is_used_up_by_it(guest: MakeGuest) -> None:
    # `out 0x61, al; l: jmp l`, and elsewhere `out 0x62, al`
    made = guest(bytes.fromhex("e661 ebfe"))
    made.write(0x2000, bytes.fromhex("e662"))
    made.vm.posted.post_port(0x61, write=True, read_value=None)
    seen: list[exits.Exit] = []
    thread = threading.Thread(target=lambda: seen.append(made.vcpu.run()), daemon=True)
    thread.start()
    wait_readable(made.vm.posted)  # the thread has arrived in the guest
    made.vcpu.kick()
    thread.join()
    assert seen == [exits.Interrupted()]
    made.vcpu.set_regs(Regs(rip=0x2000))
    assert made.vcpu.run() == exits.IoOut(0x62, 1, 1, b"\0")


def test_kick_of_a_guest_whose_exits_are_all_posted(guest: MakeGuest) -> None:
    made = guest(OUT_F1_FOR_EVER)
    made.vm.posted.post_port(0xF1, write=True, read_value=None)
    seen: list[exits.Exit] = []
    thread = threading.Thread(target=lambda: seen.append(made.vcpu.run()), daemon=True)
    thread.start()
    made.vcpu.kick()
    thread.join()
    assert seen == [exits.Interrupted()]


def test_every_acknowledged_kick_interrupts_exactly_once(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    kicks = 500
    interrupted = threading.Semaphore(0)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            assert vcpu.run() == exits.Interrupted()
            interrupted.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in range(kicks):
        vcpu.kick()
        interrupted.acquire()
    stop.set()
    vcpu.kick()
    thread.join()
    assert vcpu.exit_counts() == {"INTERRUPTED": kicks + 1}


def test_many_kicks_lose_no_access(guest: MakeGuest) -> None:
    vcpu = guest(COUNT_TO_F1).vcpu
    stop = threading.Event()

    def kick() -> None:
        while not stop.is_set():
            vcpu.kick()

    kickers = [threading.Thread(target=kick, daemon=True) for _ in range(2)]
    for thread in kickers:
        thread.start()
    values: list[int] = []
    interruptions = 0
    while len(values) < 3000 or not interruptions:
        seen = vcpu.run()
        if isinstance(seen, exits.IoOut):
            values.append(seen.data[0])
        else:
            assert seen == exits.Interrupted()
            interruptions += 1
            if interruptions > 200:
                stop.set()
    stop.set()
    for thread in kickers:
        thread.join()
    assert values == [number & 0xFF for number in range(len(values))]


def test_kick_after_close_does_nothing(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    vcpu.close()
    vcpu.kick()


def test_kick_after_the_thread_has_gone(guest: MakeGuest) -> None:
    vcpu = guest(COUNT_TO_F1).vcpu
    thread = threading.Thread(target=vcpu.run, daemon=True)
    thread.start()
    thread.join()
    for _ in range(100):
        vcpu.kick()
    assert vcpu.run() == exits.Interrupted()
    assert vcpu.run() == exits.IoOut(0xF1, 1, 1, b"\x01")


def test_kicks_while_closing(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    stop = threading.Event()

    def kick() -> None:
        while not stop.is_set():
            vcpu.kick()

    thread = threading.Thread(target=kick, daemon=True)
    thread.start()
    for _ in range(20):
        assert vcpu.run() == exits.Interrupted()
    vcpu.close()
    stop.set()
    thread.join()


def test_the_owner_is_told_when_it_closes_or_runs_a_running_vcpu(guest: MakeGuest) -> None:
    # `out 0x61, al; l: jmp l`
    made = guest(bytes.fromhex("e661 ebfe"))
    vcpu = made.vcpu
    made.vm.posted.post_port(0x61, write=True, read_value=None)
    thread = threading.Thread(target=vcpu.run, daemon=True)
    thread.start()
    wait_readable(made.vm.posted)  # the thread has arrived in the guest
    with pytest.raises(SystemCallError, match="EBUSY"):
        vcpu.complete()
    with pytest.raises(InternalError, match="another thread"):
        vcpu.run()
    with pytest.raises(InternalError, match="a thread is running it"):
        vcpu.close()
    assert vcpu.fd >= 0
    vcpu.kick()
    thread.join()
    vcpu.close()


def test_a_blocked_kick_signal_does_not_disarm_kicks(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    seen: list[exits.Exit] = []
    ready = threading.Event()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {lib.pyvmm_kick_signal()})
        vcpu.set_signal_mask(set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP})
        ready.set()
        seen.append(vcpu.run())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    vcpu.kick()
    thread.join()
    assert seen == [exits.Interrupted()]
    vcpu.set_signal_mask(None)


def test_any_other_signal_interrupts_too(guest: MakeGuest) -> None:
    vcpu = guest(SPIN).vcpu
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: handled.append(number))
    try:
        sender = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR2))
        sender.start()
        while not handled:
            # Some other thread may be chosen to take the signal, whose handler then runs here.
            fallback = threading.Timer(0.4, vcpu.kick)
            fallback.start()
            assert vcpu.run() == exits.Interrupted()
            fallback.cancel()
            fallback.join()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert handled == [signal.SIGUSR2]
