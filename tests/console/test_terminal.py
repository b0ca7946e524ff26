# SPDX-License-Identifier: MIT
"""The console on a terminal: raw while the guest has it, and back as it was on every way out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cli import flat
from ..cli.command import PYVMM, catches, state, until
from .on_terminal import Terminal, terminal

pytestmark = [pytest.mark.kvm, pytest.mark.slow]  # each starts processes

ENDING_SIGNALS = [
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM,
]  # fmt: skip
PROMPT = b"(pyvmm) "


@pytest.fixture
def tty() -> Iterator[Terminal]:
    with terminal() as new:
        yield new


def start_hanging(tty: Terminal) -> None:
    tty.run("run", "hang")
    tty.expect(b"hanging\r\n")  # output processing stays on
    tty.until_raw()


def start_echo(tty: Terminal) -> None:
    tty.run("run", "echo")
    tty.until_raw()


def test_keys_end_the_run(tty: Terminal) -> None:
    start_hanging(tty)
    tty.type(b"\x01x")
    assert tty.wait() == 130
    tty.assert_restored()
    assert b"Ctrl-A x" in tty.seen


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_restored_after_a_signal(tty: Terminal, number: signal.Signals) -> None:
    start_hanging(tty)
    tty.signal(number)
    assert tty.wait() == 130
    tty.assert_restored()


def test_restored_after_many_signals(tty: Terminal) -> None:
    start_hanging(tty)
    for _ in range(10):
        tty.signal(signal.SIGTERM)
    assert tty.wait() == 130
    tty.assert_restored()


def test_restored_after_the_guest_exits(tty: Terminal) -> None:
    start_echo(tty)
    tty.type(b"\x04")
    assert tty.wait() == 0
    tty.assert_restored()


@pytest.mark.parametrize("name", ["triple", "panic"])
def test_restored_after_a_crash(tty: Terminal, name: str) -> None:
    tty.run("run", name)
    assert tty.wait() in (80, 81)
    tty.assert_restored()


def test_restored_after_a_time_limit(tty: Terminal) -> None:
    tty.run("run", "hang", "--timeout", "0.3")
    assert tty.wait() == 124
    tty.assert_restored()


def test_untouched_by_a_start_that_fails(tty: Terminal, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"\x7fELF")
    tty.run("run", tmp_path / "image")
    assert tty.wait() == 65
    tty.assert_restored()
    assert tty.seen.startswith(b"pyvmm: ")
    assert len(tty.seen.splitlines()) == 1


def test_hang_up(tty: Terminal) -> None:
    start_hanging(tty)
    assert tty.process is not None
    os.close(tty.slave)
    os.close(tty.master)
    tty.master = tty.slave = -1
    assert tty.process.wait(60) == 130


def test_keys_reach_the_guest(tty: Terminal) -> None:
    start_echo(tty)
    tty.type(b"\x03")
    tty.expect(b"\x03")
    tty.type(b"\x1a\x1c\x13\x11\x7f\r")
    tty.expect(b"\x1a\x1c\x13\x11\x7f\r")
    assert tty.process is not None
    assert tty.process.poll() is None
    tty.type(b"\x01\x01!")
    tty.expect(b"\x01!")
    tty.type(b"\x01a?\x04")
    tty.expect(b"\x01?")
    assert tty.wait() == 0


def test_help(tty: Terminal) -> None:
    start_hanging(tty)
    tty.type(b"\x01h")
    tty.expect(b"Ctrl-A x       end the run\r\n")
    tty.type(b"\x01x")
    assert tty.wait() == 130


def test_keys_for_us_pass_input_that_the_guest_leaves(tty: Terminal) -> None:
    start_hanging(tty)
    for _ in range(60):  # more than the console's queue takes
        tty.type(b"x" * 2000)
    tty.type(b"\x01x")
    assert tty.wait() == 130


def test_monitor(tty: Terminal) -> None:
    start_hanging(tty)
    tty.type(b"\x01c")
    tty.expect(PROMPT)

    def ask(line: bytes, *answers: bytes) -> None:
        tty.type(line + b"\r")
        for answer in (line + b"\r\n", *answers, PROMPT):
            tty.expect(answer)

    ask(b"info status", b"VM status: running\r\n")
    ask(b"stop")
    ask(b"info status", b"VM status: paused\r\n")
    ask(b"info registers", b"CPU#0\r\n", b"RIP=0000", b"CS64 [-RA]", b"EFER=")
    ask(b"info vcpus", b"vCPU 0: 64-bit mode\r\n", b"rip ", b"code at rip: eb fe")
    ask(b"x /2xb $rip", b": 0xeb 0xfe\r\n")
    ask(b"cont")
    ask(b"info status", b"VM status: running\r\n")
    ask(b"info registers", b"CPU#0\r\n")
    ask(b"info mtree", b"address-space: memory\r\n", b"@pyvmm.ram")
    ask(b"info memory", b"262144 KiB", b"slot 0: gpa 0x0..0x10000000\r\n")
    ask(b"help", b"info registers")
    ask(b"dance", b"unknown command: 'dance'")
    ask(b"")
    tty.type(b"quux\x7f\x7fit\r")
    tty.expect(b"\r\n")
    assert tty.wait() == 130
    tty.assert_restored()
    assert b"quit" in tty.seen


def test_monitor_keeps_its_keys_from_the_guest(tty: Terminal) -> None:
    start_echo(tty)
    tty.type(b"a")
    tty.expect(b"a")
    tty.type(b"\x01c")
    tty.expect(PROMPT)
    tty.type(b"stop\r")
    tty.expect(PROMPT)
    tty.type(b"\x01cb")  # back to the guest, which is paused
    tty.type(b"\x01c")
    tty.expect(PROMPT)
    assert b"b" not in tty.seen
    tty.type(b"cont\r")
    tty.expect(b"b")
    tty.type(b"\x01cz")
    tty.expect(b"z")
    tty.type(b"\x04")
    assert tty.wait() == 0


def test_guest_that_is_paused_can_be_ended(tty: Terminal) -> None:
    start_hanging(tty)
    tty.type(b"\x01cstop\r")
    tty.expect(b"stop\r\n" + PROMPT)
    tty.type(b"\x01x")
    assert tty.wait() == 130
    tty.assert_restored()


def test_suspended_and_continued(tty: Terminal) -> None:
    start_echo(tty)
    tty.signal(signal.SIGTSTP)
    tty.until_stopped()
    tty.assert_restored()
    tty.signal(signal.SIGCONT)
    tty.until_raw()
    tty.type(b"y")
    tty.expect(b"y")
    tty.type(b"\x04")
    assert tty.wait() == 0
    tty.assert_restored()


BACKGROUND = """
import os, signal, subprocess, sys
job = subprocess.Popen(sys.argv[1:], process_group=0)
print("job", job.pid, flush=True)
for line in sys.stdin:
    if line == "fg\\n":
        os.tcsetpgrp(0, job.pid)
        job.send_signal(signal.SIGCONT)
        print("ended", job.wait(), flush=True)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        break
    print("read", line, flush=True)
"""
"""The least shell: one job in the background; "fg" brings it to the front."""


def start_in_background(tty: Terminal, name: str) -> int:
    tty.run("run", name, command=(sys.executable, "-c", BACKGROUND, *PYVMM))
    tty.expect(b"job ")
    tty.expect(b"\r\n") if b"\n" not in tty.seen else None
    assert tty.process is not None
    children = Path(f"/proc/{tty.process.pid}/task/{tty.process.pid}/children")
    return int(children.read_text().split()[0])


def test_background_job_leaves_the_terminal_alone(tty: Terminal) -> None:
    job = start_in_background(tty, "hang")
    tty.expect(b"hanging\r\n")
    for word in (b"one", b"two", b"three"):
        tty.type(word + b"\n")
        tty.expect(b"read " + word)
        assert state(job) in ("R", "S")
        tty.assert_restored()
    os.kill(job, signal.SIGTERM)
    tty.expect(b"interrupted by SIGTERM\r\n")
    tty.assert_restored()


def test_background_job_comes_to_the_front(tty: Terminal) -> None:
    start_in_background(tty, "echo")
    # Only a job that is past its start can answer SIGCONT.
    tty.type(b"one\n")
    tty.expect(b"read one")
    until_catching(tty, signal.SIGCONT)
    tty.type(b"fg\n")
    tty.until_raw()
    tty.type(b"\x03")
    tty.expect(b"\x03")
    tty.type(b"\x04")
    tty.expect(b"ended 0\r\n")
    assert tty.wait() == 0
    tty.assert_restored()


def until_catching(tty: Terminal, number: signal.Signals) -> None:
    assert tty.process is not None
    children = Path(f"/proc/{tty.process.pid}/task/{tty.process.pid}/children")
    job = int(children.read_text().split()[0])
    until(lambda: catches(job, number), f"a handler for {number.name}")


@pytest.mark.slow
def test_flood_of_output_can_be_ended(tty: Terminal, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.ENDLESS)
    tty.run("run", tmp_path / "image")
    tty.until_raw()
    tty.type(b"\x01x")
    assert tty.wait() == 130
    tty.assert_restored()
