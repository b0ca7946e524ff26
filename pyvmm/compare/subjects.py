# SPDX-License-Identifier: MIT
"""Subjects of a run: pyvmm on one of its hosts, or a QEMU with an accelerator and a machine."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyvmm.visible import visible


class PyvmmHost(enum.Enum):
    """Host on which pyvmm runs the guest; the values are those of ``pyvmm run --host``."""

    KVM = "kvm"
    MODEL = "model"


class QemuAccelerator(enum.Enum):
    """Accelerator with which QEMU runs the guest; the values are those of ``-accel``."""

    KVM = "kvm"
    TCG = "tcg"


class QemuMachine(enum.Enum):
    """The machine that QEMU plays; the values are those of ``-machine``."""

    MICROVM = "microvm"
    PC = "pc"
    Q35 = "q35"
    """For Linux alone, which pyvmm gives a PCI bus as well."""


QBOOT = "qboot.rom"
"""The firmware that starts a kernel and does little else; which one microvm has by default depends
on who built QEMU, and SeaBIOS reserves RAM and leaves tables there."""


@dataclass(frozen=True, slots=True)
class PyvmmSubject:
    """pyvmm on `host`."""

    host: PyvmmHost

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"pyvmm {self.host.value}"


@dataclass(frozen=True, slots=True)
class QemuSubject:
    """`program`, a QEMU of `version`, with a processor model that works with its accelerator.

    `apart` tells it from another of the same name, where there is one. `firmware` is what microvm
    is started with, "" for its default.
    """

    program: str
    version: str
    accelerator: QemuAccelerator
    machine: QemuMachine
    cpu: str
    apart: str = ""
    firmware: str = QBOOT

    @property
    def machine_option(self) -> str:
        """Argument of ``-machine``: the machine, and its firmware where that is chosen."""
        chosen = self.machine is QemuMachine.MICROVM and self.firmware
        return self.machine.value + (f",firmware={self.firmware}" if chosen else "")

    @property
    def name(self) -> str:
        """Name in reports."""
        name = f"QEMU {self.version} {self.accelerator.value} {self.machine.value}"
        return f"{name} ({visible(self.apart)})" if self.apart else name


Subject = PyvmmSubject | QemuSubject


def told_apart(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """The same subjects with different names: QEMUs of one version by their programs."""
    listed = tuple(subjects)
    times = Counter(subject.name for subject in listed)
    return tuple(
        replace(subject, apart=subject.program)
        if isinstance(subject, QemuSubject) and times[subject.name] > 1
        else subject
        for subject in listed
    )
