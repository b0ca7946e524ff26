# SPDX-License-Identifier: MIT
"""GDB itself at the stub: breakpoints, steps, memory, threads, the end."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence

import pytest
import trio

import pyvmm
from pyvmm import bundled_guests
from tests.gdb.client import debugged
from tests.machine.in_trio import HANG, in_trio
from tests.machine.test_open_machine import each_host

pytestmark = pytest.mark.slow

PLAY = (
    ("info threads", r"1 +Thread 1 \(vCPU 0\)(.|\n)*2 +Thread 2 \(vCPU 1\)"),
    ("hbreak guest_main", r"breakpoint 1 at"),
    ("continue", r"Thread 1 hit Breakpoint 1,"),
    ("info registers cr0", r"\[ PE .*PG \]"),
    ("x/i $pc", r"=> 0x.*<guest_main>:"),
    ("set var $was = $pc", ""),
    ("stepi", r"guest_main"),
    ("print $pc > $was && $pc < $was + 16", r"\$\d+ = 1\n"),
    ("x/gx 0x7f0000000000", r"Cannot access memory at address 0x7f0000000000"),
    ("thread 2", r"Switching to thread 2"),
    ("print $pc", r"= .*0xfff0"),
    ("print $xmm0.v2_int64", r"\{0, 0\}|<unavailable>"),
    ("break guest_exit", r"Breakpoint 2 at"),
    ("delete 1", ""),
    ("monitor info status", r"VM status: paused"),
    ("continue", r"Thread 1 hit Breakpoint 2,"),
    ("set var $rdi = 9", ""),
    ("continue", r"exited with code 011"),
)
"""Commands, and patterns of what is seen then, in this order. The last number is octal."""


def gdb() -> str:
    found = shutil.which("gdb")
    if found is None:
        if os.environ.get("PYVMM_REQUIRE"):
            pytest.fail("gdb is required here, but it is not installed")
        pytest.skip("gdb is not installed")
    return found


def config(guest: str, host: pyvmm.HostChoice, cpus: int = 1) -> pyvmm.MachineConfig:
    return pyvmm.MachineConfig(
        pyvmm.guest_image(guest), memory=16 << 20, cpus=cpus, host=host, timeout=HANG
    )


def command(listener: socket.socket, guest: str, lines: Sequence[str]) -> list[str]:
    image = bundled_guests.find(guest)
    assert image is not None
    place = "{}:{}".format(*listener.getsockname())
    said = ("set confirm off", "set pagination off", f"target remote {place}", *lines)
    return [
        gdb(),
        "-nx",
        "-batch",
        *(part for one in said for part in ("-ex", one)),
        str(image.path),
    ]


@each_host
@in_trio
async def test_gdb_sees_a_guest_through_to_its_end(host: pyvmm.HostChoice) -> None:
    gdb()
    async with debugged(config("timer", host, cpus=2)) as (machine, listener):
        try:
            await machine.control.set_breakpoint(0)
        except pyvmm.HostLacksError as lacks:
            pytest.skip(lacks.cause)
        await machine.control.clear_breakpoint(0)
        lines = [line for line, _ in PLAY]
        done = await trio.run_process(
            command(listener, "timer", lines),
            capture_stdout=True, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = done.stdout.decode()
        at = 0
        for line, pattern in PLAY:
            found = re.compile(pattern).search(said, at)
            assert found, f"{line}: no {pattern} in\n{said[at:]}\nwhich is the end of\n{said}"
            at = found.end()
        assert (await machine.control.wait()).ending.status == 9
