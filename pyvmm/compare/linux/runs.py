# SPDX-License-Identifier: MIT
"""Boots of Linux that are compared: whole processes, timed, with what the guest said."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyvmm.boot.initrd import joined
from pyvmm.compare.guest_files import memory_file, path_of
from pyvmm.compare.linux.facts import FIRST_MARK, facts_of
from pyvmm.compare.linux.report import LinuxRun, LinuxSubject
from pyvmm.compare.processes import RunFailedError, Transcript, failure_of
from pyvmm.compare.subjects import QemuMachine
from pyvmm.compare.timed_runs import launched
from pyvmm.errors import NoInputError
from pyvmm.lab.initramfs import Entry, archive

_SCRIPT = "machine"
_WORDS = f"console=ttyS0 quiet panic=-1 {{more}}-- {_SCRIPT}"


@dataclass(frozen=True, slots=True)
class LinuxRequest:
    """The guest: files of `folder`, `memory` in bytes, `timeout` in seconds for each boot.

    `words` are put on the kernel's command line.
    """

    folder: Path
    words: str
    memory: int
    cpus: int
    timeout: float

    @property
    def command_line(self) -> str:
        """The kernel's command line; the session of the initrd runs what is behind " -- "."""
        return _WORDS.format(more=f"{self.words} " if self.words else "")


@dataclass(frozen=True, slots=True)
class LinuxFiles:
    """Open files of a guest, the owner's: `disk` None where the folder has none."""

    request: LinuxRequest
    kernel: int
    initrd: int
    disk: int | None
    nothing: int
    """Input of the console: none."""

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that every child needs."""
        return tuple(fd for fd in (self.kernel, self.initrd, self.disk) if fd is not None)


@contextmanager
def linux_files(request: LinuxRequest) -> Iterator[LinuxFiles]:
    """Open ``vmlinuz``, ``initrd`` and, where it is there, ``disk``, all for reading.

    The initrd has the script as one more part. Raises `NoInputError`, `SystemCallError`.
    """
    script = (Path(__file__).parent / _SCRIPT).read_bytes()
    part = archive([Entry(f"bin/{_SCRIPT}", stat.S_IFREG | 0o755, script)])
    with ExitStack() as stack:
        kernel = _opened(request.folder / "vmlinuz", stack)
        with open(_opened(request.folder / "initrd", stack), "rb", closefd=False) as file:
            initrd = joined([file.read(), part])
        disk = request.folder / "disk"
        yield LinuxFiles(
            request,
            kernel,
            stack.enter_context(memory_file("initrd", initrd)),
            _opened(disk, stack) if disk.exists() else None,
            _opened(Path(os.devnull), stack),
        )


def _opened(path: Path, stack: ExitStack) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NoInputError(
            f"read {path}", error.strerror or str(error), "make it with pyvmm linux"
        ) from error
    stack.callback(os.close, fd)
    return fd


def command_of(subject: LinuxSubject, files: LinuxFiles) -> list[str]:
    """The command that boots it, one disk for reading, with nothing that only one of both has."""
    return (_ours if subject.qemu is None else _theirs)(subject, files)


def _ours(subject: LinuxSubject, files: LinuxFiles) -> list[str]:
    request = files.request
    transport = "mmio" if subject.machine is QemuMachine.MICROVM else "pci"
    command = [
        sys.executable, "-P", "-m", "pyvmm", "run", path_of(files.kernel), "--host", "kvm",
        "--transport", transport, "--memory", f"{request.memory}B", "--cpus", str(request.cpus),
        "--initrd", path_of(files.initrd), f"--append={request.command_line}",
    ]  # fmt: skip
    if files.disk is not None:
        command += ["--disk", f"{path_of(files.disk)},readonly=on"]
    return command


_Q35 = ",smbus=off,sata=off,hpet=off,i8042=off,vmport=off"
"""Devices of a q35's that pyvmm's machine has not and that can be left out."""


def _theirs(subject: LinuxSubject, files: LinuxFiles) -> list[str]:
    request, qemu = files.request, subject.qemu
    assert qemu is not None
    is_q35 = subject.machine is QemuMachine.Q35
    command = [
        qemu.program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", qemu.machine_option + (_Q35 if is_q35 else ""),
        # microvm's devices are those of before virtio 1.0 unless this is said.
        "-global", "virtio-mmio.force-legacy=false",
        "-accel", qemu.accelerator.value, "-cpu", qemu.cpu,
        "-m", f"size={request.memory}B", "-smp", str(request.cpus),
        "-kernel", path_of(files.kernel), "-initrd", path_of(files.initrd),
        "-append", request.command_line, "-serial", "stdio",
    ]  # fmt: skip
    if files.disk is not None:
        device = "virtio-blk-pci,disable-legacy=on" if is_q35 else "virtio-blk-device"
        command += [
            *("-drive", f"id=disk,if=none,format=raw,readonly=on,file={path_of(files.disk)}"),
            *("-device", f"{device},drive=disk"),
        ]
    return command


class MarkedTranscript(Transcript):
    """A transcript whose `first` is the time of the script's first line, None before that."""

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""
        self._is_found = False

    def take(self, data: bytes) -> None:
        """More of it."""
        super().take(data)
        if not self._is_found:
            window = self._tail + data
            self._is_found = FIRST_MARK in window
            self._tail = window[-len(FIRST_MARK) :]
            if not self._is_found:
                # Until then every byte is taken for the first one.
                self.first = None


async def boot(subject: LinuxSubject, files: LinuxFiles, number: int) -> LinuxRun:
    """Boot it once, as round `number`. Raises a `PyvmmError` where the monitor fails."""
    said = MarkedTranscript()
    done = await launched(
        command_of(subject, files), files.inherited, files.nothing, files.request.timeout, said
    )
    attempt = f"boot Linux under {subject.name}"
    if done.is_overdue:
        cause = f"it was not over after {files.request.timeout:g} s"
        remedy = "give a longer --timeout; where KVM is emulated (pyvmm doctor), pyvmm lab run"
        raise RunFailedError(attempt, cause, remedy)
    cost = done.cost
    if cost is None or (cost.exit_code and done.lines):
        raise failure_of(attempt, done.returncode if cost is None else cost.exit_code, done.lines)
    return LinuxRun(
        round=number,
        exit_code=cost.exit_code,
        to_script=None if said.first is None else said.first - cost.started,
        total=cost.ended - cost.started,
        user=cost.user,
        system=cost.system,
        peak_rss=cost.peak_rss,
        facts=facts_of(said.text),
    )
