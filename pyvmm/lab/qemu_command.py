# SPDX-License-Identifier: MIT
"""The command line of the lab's QEMU, and what its failures mean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.lab.initramfs import Folder
from pyvmm.lab.settings import STARTED_IN, LabSettings

if TYPE_CHECKING:
    from pyvmm.qmp.peer import QemuError

PROGRAM = "qemu-system-x86_64"
_KERNEL_COMMAND_LINE = (
    "console=ttyS0 loglevel=5 panic=-1 oops=panic tsc=reliable"
    # KVM keeps the rate of the time stamp that it found when it was loaded. The kernel measures it
    # again afterwards, and under emulation finds another one. Beyond this tolerance KVM gives a
    # vCPU no rate at all: it reads that vCPU's time stamp as 0 for ever, and a deadline of the
    # guest's local APIC timer never comes (kvm_set_tsc_khz, arch/x86/kvm/x86.c).
    " kvm.tsc_tolerance_ppm=50000"
)
_PROCESSOR = "max,-erms,-fsrm"
"""All that TCG knows, but for what says that ``rep movsb`` and ``rep stosb`` are quick.

TCG carries them out byte by byte, as an iteration of a loop each; a kernel that believes CPUID
(leaf 7, EBX bit 9 and EDX bit 4) clears and copies every page by them, and the C library copies.
"""
_ASK_PATIENCE = 10
_SCRATCH = ("/tmp", "/var/tmp")
"""Folders that are empty in the lab, so that they can be written to."""


def exported_folders(settings: LabSettings) -> list[Folder]:
    """List the folders exported beside the root: the writable folders, and those to be cached.

    Cached are those that programs load themselves from and that change only when something is
    installed: looking at each file anew makes an `import trio` take three times as long.
    """
    folders = [
        Folder(f"w{number}", path, writable=True) for number, path in enumerate(settings.writable)
    ]
    cached: list[str] = []
    for name in ("/usr", sys.base_prefix, sys.prefix):
        path = os.path.realpath(name)
        inside = any(f"{path}/".startswith(f"{other}/") for other in (*cached, *settings.writable))
        if path != "/" and not inside and os.path.isdir(path):  # noqa: PTH112
            cached.append(path)
    folders += [
        Folder(f"r{number}", path, False)
        for number, path in enumerate(_hidden_by_scratch())
        if path not in {folder.path for folder in folders} | set(cached)
    ]
    # Outer folders first: a mount hides what was mounted beneath its place before.
    folders += [Folder(f"c{number}", path, False) for number, path in enumerate(cached)]
    return sorted(folders, key=lambda folder: folder.path.count("/"))


def _hidden_by_scratch() -> list[str]:
    """This package's place and the working directory, where they are below an empty /tmp inside.

    A checkout may well be there, and the lab must see it.
    """
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))  # noqa: PTH120
    hidden: list[str] = []
    for path in (package, os.path.realpath(os.environ.get(STARTED_IN, package))):
        in_scratch = any(path.startswith(f"{scratch}/") for scratch in _SCRATCH)
        if in_scratch and not any(f"{path}/".startswith(f"{other}/") for other in hidden):
            hidden.append(path)
    return hidden


def qemu_command(
    settings: LabSettings, folders: Sequence[Folder], initrd_fd: int, channel_fd: int
) -> list[str]:
    """QEMU's command line, without QMP; both descriptors are inherited by it.

    The serial port is the kernel's log and goes to standard output; `channel_fd` is the socket of
    the command channel.
    """
    command = [
        PROGRAM,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "pc,vmport=off,dump-guest-core=off",
        "-accel", "tcg,thread=multi", "-cpu", _PROCESSOR,
        "-smp", str(settings.all_cpus), "-m", f"{settings.memory >> 20}M",
        "-kernel", settings.kernel, "-initrd", f"/proc/self/fd/{initrd_fd}",
        "-append", _KERNEL_COMMAND_LINE,
        "-serial", "stdio",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=channel,fd={channel_fd}",
        "-device", "virtserialport,chardev=channel,name=pyvmm.lab,nr=1",
    ]  # fmt: skip
    command += _export("root", "/", writable=False)
    for folder in folders:
        command += _export(folder.tag, folder.path, writable=folder.writable)
    return command


def _export(tag: str, path: str, *, writable: bool) -> list[str]:
    # A comma in an option's value is doubled.
    where = path.replace(",", ",,")
    access = "" if writable else ",readonly=on"
    return [
        "-fsdev",
        f"local,id={tag},path={where},security_model=none,multidevs=remap{access}",
        "-device",
        f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
    ]


def explain(error: QemuError) -> PyvmmError:
    """Ask a QEMU that did not start what it lacks; `error` as `HostLacksError` otherwise."""
    if shutil.which(PROGRAM) is None:
        return HostLacksError("start a lab", f"{PROGRAM} is not installed", "install it")
    for question, needed, what in (
        ("-accel", "tcg", "TCG"),
        ("-device", "virtio-9p-pci", "9p (virtio-9p-pci)"),
        ("-device", "virtserialport", "virtio-serial (virtserialport)"),
    ):
        answer = _ask(question)
        if answer is not None and needed not in answer:
            return HostLacksError(
                "start a lab", f"{PROGRAM} on this host has no {what}", "install a complete QEMU"
            )
    return HostLacksError("start a lab", error.cause, error.remedy)


def _ask(question: str) -> str | None:
    try:
        done = subprocess.run(
            [PROGRAM, question, "help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
