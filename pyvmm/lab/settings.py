# SPDX-License-Identifier: MIT
"""Settings of a lab, and the paths of the files of a lab that is up."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyvmm.errors import NoInputError, UsageError

MIB = 1 << 20
DEFAULT_MEMORY = 2048 * MIB
DEFAULT_CPUS = 2
MEMORY_MIN = 256 * MIB
CPUS_MAX = 254
"""Largest number of CPUs of QEMU's ``pc``, without the boot CPU."""
KERNEL_VARIABLE = "PYVMM_LAB_KERNEL"
"""Environment: the lab kernel's file, instead of one that `pyvmm lab build` made."""
STARTED_IN = "PYVMM_LAB_STARTED_IN"
"""Environment of a keeper: the working directory of who started it."""


class LabMonitor(enum.StrEnum):
    """Program that runs the lab's machine."""

    QEMU = "qemu"
    """QEMU's TCG, which emulates a processor with virtualization: on every host."""
    PYVMM = "pyvmm"
    """pyvmm on this host's KVM, which has to have nested virtualization; QEMU is not needed."""


@dataclass(frozen=True, slots=True)
class LabSettings:
    """A lab to be: `memory` in bytes, `kernel` a file, `writable` folders as absolute paths.

    `cpus` are those that programs run on.

    Raises `UsageError` where a value cannot be.
    """

    kernel: str
    cpus: int = DEFAULT_CPUS
    memory: int = DEFAULT_MEMORY
    writable: tuple[str, ...] = ()
    monitor: LabMonitor = LabMonitor.QEMU

    @property
    def all_cpus(self) -> int:
        """Those that programs run on, and the boot CPU, which the lab's first process keeps free.

        QEMU's TCG lets every CPU's thread write flags of the boot CPU, and so loses some of its own
        (docs/decisions/0008-boot-cpu.md). A single CPU has nobody who could.
        """
        return self.cpus + 1 if self.cpus > 1 else 1

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= CPUS_MAX:
            raise UsageError(
                f"make a lab with {self.cpus} CPUs", f"it has at least 1 and at most {CPUS_MAX}"
            )
        if self.memory < MEMORY_MIN or self.memory % MIB:
            raise UsageError(
                f"make a lab with {self.memory} bytes of memory",
                f"it needs whole MiB, and {MEMORY_MIN // MIB} of them at least",
            )

    def to_json(self) -> str:
        """For the keeper's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LabSettings:
        """The inverse of `to_json`."""
        values = json.loads(text)
        monitor = LabMonitor(values.get("monitor", LabMonitor.QEMU))
        return cls(**{**values, "writable": tuple(values["writable"]), "monitor": monitor})


@dataclass(frozen=True, slots=True)
class LabWishes:
    """Settings that the user asked for; None and () where nothing was said."""

    kernel: str | None = None
    cpus: int | None = None
    memory: int | None = None
    writable: tuple[str, ...] = ()
    monitor: LabMonitor | None = None

    @property
    def any_lab_will_do(self) -> bool:
        """True if the user asked for no setting."""
        return self == LabWishes()

    def settings(self) -> LabSettings:
        """These wishes, defaults for the rest."""
        # Numbers that cannot be are refused first, whether there is a kernel or not.
        asked = LabSettings(
            kernel="",
            cpus=DEFAULT_CPUS if self.cpus is None else self.cpus,
            memory=DEFAULT_MEMORY if self.memory is None else self.memory,
            writable=self.writable,
            monitor=self.monitor or LabMonitor.QEMU,
        )
        return replace(asked, kernel=str(find_kernel(self.kernel)))

    def are_met_by(self, settings: LabSettings) -> bool:
        """Tell whether a lab made of `settings` is what was asked for."""
        return (
            (self.cpus is None or self.cpus == settings.cpus)
            and (self.memory is None or self.memory == settings.memory)
            and (self.kernel is None or str(find_kernel(self.kernel)) == settings.kernel)
            and (self.monitor is None or self.monitor is settings.monitor)
            and set(self.writable) <= set(settings.writable)
        )


def working_directory() -> Path:
    """The folder that we are in. Raises `NoInputError` where it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise NoInputError(
            "find the working directory", "it has been removed", "change to one that exists"
        ) from error


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    """Tell whether `path` exists and `test` is true of it; no name is too long to ask."""
    try:
        return test(path)
    except OSError:
        return False


def find_kernel(name: str | None) -> Path:
    """The kernel called `name`, or the file `name`; by default `PYVMM_LAB_KERNEL`, or the newest.

    Raises `NoInputError` for a file that is not there, and what `pyvmm.lab.kernel.find` raises.
    """
    named = name if name is not None else os.environ.get(KERNEL_VARIABLE)
    if named and ("/" in named or _is(Path.is_file, Path(named))):
        path = working_directory() / named
        if not _is(Path.is_file, path):
            raise NoInputError(f"use the lab kernel {named}", "there is no such file")
        if not os.access(path, os.R_OK):
            raise NoInputError(f"use the lab kernel {named}", "it may not be read")
        return path
    from pyvmm.lab import kernel

    return Path(kernel.find(named).path)


def writable_folders(names: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of folders to be writable in the lab. Raises `NoInputError`, `UsageError`."""
    found = []
    for name in names:
        path = working_directory() / name
        if not _is(Path.is_dir, path):
            raise NoInputError(f"make {name} writable in the lab", "there is no such folder")
        if "\n" in name or "\0" in name:
            raise UsageError(f"make {name!r} writable in the lab", "the name has a line break")
        found.append(os.path.realpath(path))
    return tuple(dict.fromkeys(found))


SOCKET_NAME = "lab.sock"
LOCK_NAME = "lab.lock"
LOG_NAME = "lab.log"
