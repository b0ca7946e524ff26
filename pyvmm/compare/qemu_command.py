# SPDX-License-Identifier: MIT
"""QEMU's command lines: the same machine for every run, as much like pyvmm's as it can be.

The console is an isa-serial at 0x3f8 on standard input and output, the debug console at 0xe9 goes
to the same place, pvpanic is there, and a write of v to port 0xf4 ends QEMU with (v << 1) | 1.
"""

from __future__ import annotations

import os

from pyvmm.compare.guest_files import GuestRequest
from pyvmm.compare.subjects import QemuMachine, QemuSubject
from pyvmm.memory.layout import HOLE_START

EXIT_PORT = 0xF4
_EXIT_DEVICE = f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"


def timed(subject: QemuSubject, request: GuestRequest, image: str, initrd: str | None) -> list[str]:
    """The command of a timed run: no QMP, RAM as QEMU makes it."""
    return [*_machine(subject, request, image, initrd, ""), "-device", _EXIT_DEVICE]


def inspected(
    subject: QemuSubject, request: GuestRequest, image: str, initrd: str | None, ram: str
) -> list[str]:
    """The command of an inspection: stopped at first, its RAM is the file `ram`."""
    return [
        *_machine(subject, request, image, initrd, ",memory-backend=ram"),
        *("-object", f"memory-backend-file,id=ram,size={request.memory}B,mem-path={ram},share=on"),
        *("-device", _EXIT_DEVICE, "-S"),
    ]


def counted(
    subject: QemuSubject, request: GuestRequest, image: str, initrd: str | None, status: str
) -> list[str]:
    """The command of a run whose exits are counted: it is still there when the guest has ended.

    A write to the exit port goes to the file `status` instead of ending QEMU.
    """
    return [
        *_machine(subject, request, image, initrd, ""),
        *("-chardev", f"file,id=status,path={status}"),
        *("-device", f"isa-debugcon,iobase={EXIT_PORT:#x},readback=0,chardev=status"),
        *("-no-shutdown", "-S"),
    ]


def _machine(
    subject: QemuSubject, request: GuestRequest, image: str, initrd: str | None, more: str
) -> list[str]:
    # pyvmm's hole begins in one place whatever the size; pc would move it up.
    split = f",max-ram-below-4g={HOLE_START}B" if subject.machine is QemuMachine.PC else ""
    command = [
        subject.program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", f"{subject.machine_option}{split}{more}",
        "-accel", subject.accelerator.value, "-cpu", subject.cpu,
        "-m", f"size={request.memory}B", "-smp", str(request.cpus),
        "-kernel", image, "-append", os.fsdecode(request.command_line),
        "-serial", "stdio", "-debugcon", "file:/proc/self/fd/1", "-device", "pvpanic",
    ]  # fmt: skip
    return command if initrd is None else [*command, "-initrd", initrd]
