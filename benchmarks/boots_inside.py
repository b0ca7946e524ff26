# SPDX-License-Identifier: MIT
"""``python -m benchmarks.boots_inside WAY BOOTS``: boots one after another, on one processor.

Prints what they took, as JSON. The ways are hosts of pyvmm's, by the fixture `boot` in a pytest run
of this file, or by `booted`, and QEMU's accelerators.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boots import Boots
from pyvmm.testing.saved_boots import Booted

HOSTS = ("kvm", "model")
RESTORED = {f"{host}-restored": host for host in HOSTS}
QEMUS = {
    "qemu-kvm": ("-accel", "kvm", "-cpu", "qemu64"),
    "qemu-tcg": ("-accel", "tcg"),
}
_QEMU = (
    "qemu-system-x86_64", "-M", "microvm", "-nodefaults", "-no-user-config", "-display", "none",
    "-no-reboot", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    "-m", "64", "-S",
)  # fmt: skip
_GUEST = "exit"
_STATUS = 7
"""The guest ends with what its command line says."""
_WARM_UP = 2
_PATIENCE = 60.0


class Measured:
    """Plugin of the pytest run: how many boots where, and what they took."""

    def __init__(self, host: str, boots: int) -> None:
        self.host = host
        self.boots = boots
        self.took: dict[str, float] = {}

    @pytest.fixture
    def measured(self) -> Measured:
        """Itself."""
        return self


def test_boots(boot: Boots, measured: Measured) -> None:
    """Boot, wait for the end, look at the status: as a test does."""

    def once() -> None:
        with boot(_GUEST, append=str(_STATUS), host=measured.host) as vm:
            assert vm.wait().status == _STATUS

    measured.took = _timed(once, measured.boots)


def answering(vm: Vm) -> None:
    """Where the saved guest is: it has answered a letter and waits for the next."""
    vm.console.send("a")
    vm.console.expect("a")


def test_booted(booted: Booted, measured: Measured) -> None:
    """Go on from a saved boot, as a test does."""

    def once() -> None:
        with booted("echo", until=answering, host=measured.host) as vm:
            answering(vm)

    measured.took = _timed(once, measured.boots)


def _timed(once: Callable[[], None], boots: int) -> dict[str, float]:
    for _ in range(_WARM_UP):
        once()
    started, before = time.perf_counter(), os.times()
    for _ in range(boots):
        once()
    seconds, after = time.perf_counter() - started, os.times()
    cpu = sum(after[:4]) - sum(before[:4])  # Children's, too.
    return {
        "boots_per_s": boots / seconds,
        "boot_ms": seconds / boots * 1e3,
        "cpu_ms": cpu / boots * 1e3,
    }


def _by_the_plugin(way: str, boots: int) -> dict[str, float]:
    measured = Measured(RESTORED.get(way, way), boots)
    test = "test_booted" if way in RESTORED else "test_boots"
    # Nothing of this checkout's own settings for pytest.
    arguments = ["-q", "--noconftest", "-c", os.devnull, "-p", "no:cacheprovider"]
    with redirect_stdout(sys.stderr):
        status = pytest.main([*arguments, f"{__file__}::{test}"], plugins=[measured])
    if status:
        raise SystemExit(f"pytest ended with {status}")
    return measured.took


def _by_qemu(accelerator: str, boots: int) -> dict[str, float]:
    guest = bundled_guests.find(_GUEST)
    if guest is None:
        raise SystemExit("the bundled guests are not built; run make guests")
    with tempfile.TemporaryDirectory(prefix="pyvmm-boots-") as folder:
        socket = Path(folder) / "qmp"
        command = [
            *_QEMU, *QEMUS[accelerator], "-kernel", str(guest.path), "-append", str(_STATUS),
            "-qmp", f"unix:{socket}",
        ]  # fmt: skip
        return _timed(partial(_launch, command, socket), boots)


def _launch(command: list[str], socket: Path) -> None:
    """One QEMU: its monitor lets the guest go, and its exit status is the guest's."""
    from qemu.qmp import ExecInterruptedError
    from qemu.qmp.legacy import QEMUMonitorProtocol

    monitor = QEMUMonitorProtocol(str(socket), server=True)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            monitor.accept(_PATIENCE)
            with suppress(ExecInterruptedError):  # The guest may end it before it answers.
                monitor.cmd("cont")
            _, said = process.communicate(timeout=_PATIENCE)
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(EOFError):  # QEMU has ended without a word of farewell.
                monitor.close()
            socket.unlink(missing_ok=True)
    if process.returncode != _STATUS << 1 | 1:
        raise SystemExit(f"QEMU ended with {process.returncode}: {said.decode().strip()}")


def main() -> None:
    """Measure on one processor: what a machine of many cores does at once is not of interest."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boots_inside")
    parser.add_argument("way", choices=[*HOSTS, *RESTORED, *QEMUS])
    parser.add_argument("boots", type=int)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    by = _by_qemu if options.way in QEMUS else _by_the_plugin
    print(json.dumps(by(options.way, options.boots)))


if __name__ == "__main__":
    main()
