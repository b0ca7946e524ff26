# SPDX-License-Identifier: MIT
"""pmemsave of 256 MiB, of pyvmm and of QEMU: the same guest, the same client, taking turns."""

from __future__ import annotations

import mmap
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm import bundled_guests

if TYPE_CHECKING:
    from qemu.qmp.legacy import QEMUMonitorProtocol

NAME = "pmemsave"
TITLE = "pmemsave of 256 MiB over QMP, from a full and from an empty guest"
RUNS = 9

_MIB = 1 << 20
_MEMORY = 256 * _MIB
_FILLED = 224 * _MIB
"""Bytes of the full guest's initrd: what is loaded is in use. The rest is zeroes on both sides."""
_PATIENCE = 60.0
_SAID = b"hanging"
_QEMU = (
    "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display", "none",
    "-serial", "stdio", "-m", "256", "-accel", "tcg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor whose guest hangs and is stopped, and what it saves to."""

    client: QEMUMonitorProtocol
    saved: Path


def run(effort: Effort, step: Step) -> Result:
    """Measure four guests that are there at the same time, of the same image."""
    guest = bundled_guests.find("hang")
    if guest is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    if shutil.which(_QEMU[0]) is None:
        raise CannotRunError(f"{_QEMU[0]} is not installed")
    image = str(guest.path)
    pyvmm = (str(Path(sys.executable).parent / "pyvmm"), "run", image, "-m", "256M")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvmm-pmemsave-")))
        initrd = folder / "initrd"
        _fill(initrd)
        subjects = []
        full: list[Monitor] = []
        for fullness, uses in (("full", f"{_FILLED // _MIB} MiB"), ("empty", "nearly nothing")):
            load = (str(initrd),) if fullness == "full" else ()
            commands = {
                "pyvmm": (*pyvmm, *(f"--initrd={one}" for one in load), "--qmp", "unix:{}"),
                "QEMU": (
                    *_QEMU, "-kernel", image, *(word for one in load for word in ("-initrd", one)),
                    "-qmp", "unix:{},server=on,wait=off",
                ),
            }  # fmt: skip
            for name, command in commands.items():
                monitor = stack.enter_context(running(command, folder / f"{name}-{fullness}"))
                full += [monitor] if load else []
                what = f"a guest that uses {uses}"
                subjects.append(Subject(f"{name}, {fullness}", what, partial(_sample, monitor)))
        samples = take_turns(subjects, effort, step)
        for monitor in full:
            _check(monitor.saved, initrd)
    return Result(
        NAME,
        TITLE,
        subjects,
        samples,
        [
            Comparison("save_ms", "pyvmm, full", "QEMU, full", at_most(1.0)),
            Comparison("save_ms", "pyvmm, empty", "QEMU, empty", at_most(1.0)),
        ],
    )


def _fill(initrd: Path) -> None:
    """No page of it is zeroes, and no two MiB are alike."""
    noise = os.urandom(_MIB)
    with initrd.open("wb") as file:
        for number in range(_FILLED // _MIB):
            file.write(number.to_bytes(8, "little") + noise[8:])


@contextmanager
def running(command: Sequence[str], path: Path) -> Iterator[Monitor]:
    """Start `command`, with its QMP socket's path filled in, and wait until its guest hangs."""
    from qemu.qmp.legacy import QEMUMonitorProtocol

    socket = path.with_suffix(".qmp")
    words = [word.replace("{}", str(socket)) for word in command]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            _wait_for_guest(process, words)
            client = QEMUMonitorProtocol(str(socket))
            client.settimeout(_PATIENCE)
            try:
                client.connect()
                # So that four guests that do nothing for ever do not keep the processors from it.
                client.cmd("stop")
                yield Monitor(client, path.with_suffix(".saved"))
            finally:
                with suppress(Exception):
                    client.close()
        finally:
            process.kill()


def _wait_for_guest(process: subprocess.Popen[bytes], words: Sequence[str]) -> None:
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + _PATIENCE
    while _SAID not in said:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], max(0, left))
        more = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not more:
            raise CannotRunError(f"{' '.join(words)}: no guest that hangs, it said {said[-200:]!r}")
        said += more


def _sample(monitor: Monitor) -> Sample:
    """One command, from its sending to its answer. Emptying the last file is not timed."""
    monitor.saved.unlink(missing_ok=True)
    started = time.perf_counter()
    monitor.client.cmd("pmemsave", val=0, size=_MEMORY, filename=str(monitor.saved))
    took = time.perf_counter() - started
    if monitor.saved.stat().st_size != _MEMORY:
        raise CannotRunError(f"{monitor.saved} has {monitor.saved.stat().st_size} bytes")
    return {"save_ms": took * 1e3, "disk_mib": monitor.saved.stat().st_blocks * 512 / _MIB}


def _check(saved: Path, initrd: Path) -> None:
    """What was loaded into the guest must be in the file, all of it."""
    with saved.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        expected = initrd.read_bytes()
        at = memory.find(expected[:4096])
        if at < 0 or memory[at : at + len(expected)] != expected:
            raise CannotRunError(f"{saved} is not what the guest has in its memory")
