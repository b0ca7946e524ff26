# SPDX-License-Identifier: MIT
"""Debian's Linux under pyvmm and under QEMU, in one lab: boot, whole process, disk, memory, exits.

Kernel, initrd and disks are the same; the files of the disks are in the lab's memory. Marks are
taken from outside by what the guest's console says, so that they mean the same for everybody.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import in_lab
from benchmarks.baselines import ROOT
from benchmarks.figures import Sample, at_least, at_most
from benchmarks.linux_console import Console, monitor_figures
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.errors import PyvmmError

NAME = "linux"
TITLE = "Debian's kernel to a shell's command and a disk, under pyvmm and QEMU with KVM, in one lab"
RUNS = 5

_SCRATCH = 64 << 20
_MIB = 48
_REQUESTS = 2000
_KERNEL = b"Linux version"
_INIT, _READY, _DONE = b"GUEST INIT", b"GUEST READY", b"GUEST DONE"
_LINE = (
    "loglevel=6 earlyprintk=ttyS0,115200 console=ttyS0 panic=-1 rdinit=/bin/first root=/dev/vda rw"
)
"""The kernel says who it is at its entry, and little else: the UART is not what is measured."""
_FIRST = f"#!/bin/busybox sh\necho {_INIT.decode()}\nexec /init\n"
_EXITS = ("exits", "io_exits", "mmio_exits", "halt_exits")
LOOK = f"""
for process in /proc/[0-9]*; do
    ls -l $process/fd 2>/dev/null | grep -q kvm-vm || continue
    sed -n 's/^VmHWM:/peak/p' $process/status
done
grep -qs debugfs /proc/mounts || mount -t debugfs debugfs /sys/kernel/debug
cd /sys/kernel/debug/kvm
for name in {" ".join(_EXITS)}; do echo $name $(cat $name); done
"""
"""In the lab, with one guest: the most memory that its monitor has had resident, and its exits."""
_PATIENCE = 600.0
"""Seconds for one boot and what is asked of it."""
_QEMU = (
    "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults",
    "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
    "-global", "virtio-mmio.force-legacy=false",
)  # fmt: skip
_BASELINE, _OTHER = "microvm", "q35"
_MMIO, _PCI = "pyvmm, mmio", "pyvmm, PCI"
_WHAT = {
    _BASELINE: "QEMU -M microvm -accel kvm, disks by virtio-mmio",
    _MMIO: "pyvmm run --transport mmio",
    _OTHER: "QEMU -M q35 -accel kvm, disks by virtio-pci",
    _PCI: "pyvmm run, disks by virtio over PCI",
}


def run(effort: Effort, step: Step) -> Result:
    """Measure all four in one lab, in turns."""
    in_lab.require_kernel()
    from pyvmm.lab.linux.kernel_package import default_root

    try:
        place = default_root()
        place.mkdir(parents=True, exist_ok=True)
        # The lab sees this folder; it has a /tmp of its own.
        with tempfile.TemporaryDirectory(dir=place, prefix="benchmark-") as folder:
            _make_files(Path(folder))
            with in_lab.lab_up() as env:
                subjects = _subjects(folder, env, effort)
                samples = take_turns(subjects, effort, step)
    except (PyvmmError, OSError, subprocess.SubprocessError) as error:
        raise CannotRunError(str(error)) from error
    return Result(NAME, TITLE, subjects, samples, comparisons())


def _make_files(folder: Path) -> None:
    from pyvmm.lab.kernel.progress import Lines
    from pyvmm.lab.linux import kernel_package, making

    program, first = folder / "diskbench", folder / "first"
    first.write_text(_FIRST, encoding="utf-8")
    source = ROOT / "guest" / "linux" / "diskbench.c"
    subprocess.run(["gcc", "-static", "-O2", source, "-o", program], check=True)
    with (folder / "log").open("w") as log:
        kernel = kernel_package.fetch(Lines(log))
    making.make(kernel, folder, making.LinuxWish((), (program, first), 16 << 20))


def commands(folder: str, effort: Effort) -> dict[str, Sequence[str]]:
    """Command lines that boot the files in `folder`, by the subjects' names; in the lab."""
    command = (
        f"echo {_READY.decode()}; read -r go; "
        f"diskbench /dev/vdb {_MIB} {effort.scaled(_REQUESTS)}; echo {_DONE.decode()}"
    )
    line = f"{_LINE} -- {command}"
    image = ["-kernel", f"{folder}/vmlinuz", "-initrd", f"{folder}/initrd", "-append", line]
    ours = [
        in_lab.PYVMM, "run", f"{folder}/vmlinuz", "--initrd", f"{folder}/initrd", "-m", "512M",
        "--disk", "/tmp/disk", "--disk", "/tmp/scratch", "--append", line,
    ]  # fmt: skip
    return {
        _BASELINE: [*_QEMU, "-M", "microvm", *_disks("device"), *image],
        _MMIO: [*ours, "--transport", "mmio"],
        _OTHER: [*_QEMU, "-M", "q35", *_disks("pci"), *image],
        _PCI: ours,
    }


def _subjects(folder: str, env: Mapping[str, str], effort: Effort) -> list[Subject]:
    return [
        Subject(name, _WHAT[name], partial(_sample, words, folder, env))
        for name, words in commands(folder, effort).items()
    ]


def _disks(bus: str) -> list[str]:
    words = []
    for name in ("disk", "scratch"):
        words += ["-drive", f"id={name},if=none,format=raw,file=/tmp/{name}"]
        words += ["-device", f"virtio-blk-{bus},drive={name}"]
    return words


def _sample(command: Sequence[str], folder: str, env: Mapping[str, str]) -> Sample:
    """One boot with everything that is asked of it."""
    prepare = f"cp {folder}/disk /tmp/disk; rm -f /tmp/scratch; truncate -s {_SCRATCH} /tmp/scratch"
    # What a disk has never been written costs its first writer: of both the same.
    prepare += "; dd if=/dev/zero of=/tmp/scratch bs=1M conv=notrunc,nocreat 2>/dev/null count=64"
    in_lab.must([in_lab.PYVMM, "lab", "run", "--", "sh", "-c", prepare], env)
    started = time.perf_counter()
    guest = subprocess.Popen(
        [in_lab.PYVMM, "lab", "run", "--", *command],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with guest:
        try:
            return _asked(guest, env, started)
        finally:
            guest.terminate()


def _asked(guest: subprocess.Popen[bytes], env: Mapping[str, str], started: float) -> Sample:
    assert guest.stdin is not None
    assert guest.stdout is not None
    console = Console(guest.stdout, _PATIENCE)
    kernel = console.wait_for(_KERNEL)
    init = console.wait_for_line(_INIT)
    ready = console.wait_for_line(_READY)
    looked = in_lab.must([in_lab.PYVMM, "lab", "run", "--", "sh", "-c", LOOK], env)
    guest.stdin.write(b"go\n")
    guest.stdin.flush()
    done = console.wait_for_line(_DONE)
    ended = console.wait_for_end()
    return {
        "start_to_kernel_ms": (kernel - started) * 1e3,
        "kernel_to_init_ms": (init - kernel) * 1e3,
        "init_to_ready_ms": (ready - init) * 1e3,
        "end_ms": (ended - done) * 1e3,
        "whole_ms": (ready - started + ended - done) * 1e3,
        **console.disk(),
        **monitor_figures(looked.decode(), _EXITS),
    }


def comparisons() -> list[Comparison]:
    """Both transports beside microvm, with the targets; PCI beside q35, for information."""
    targets = {
        "kernel_to_init_ms": at_most(1.0),
        "whole_ms": at_most(1.0),
        "read_mib_per_s": at_least(0.9),
        "write_mib_per_s": at_least(0.9),
        "random_1_per_s": at_least(0.6),
        "random_32_per_s": at_least(0.8),
        "rss_mib": at_most(1.0),
    }
    found = [Comparison(figure, _MMIO, _BASELINE, target) for figure, target in targets.items()]
    found.append(Comparison("exits", _MMIO, _BASELINE))
    found += [Comparison(figure, _PCI, _BASELINE, target) for figure, target in targets.items()]
    return found + [Comparison(figure, _PCI, _OTHER) for figure in (*targets, "exits")]
