# SPDX-License-Identifier: MIT
"""The state of a whole machine as a frozen value: what another one needs to go on from there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pyvmm.errors import UsageError
from pyvmm.hosts.saved_state import SavedVcpu, SavedVm
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.hardware import Hardware
from pyvmm.memory.page_states import PageRun

_OWNERS = frozenset(
    {"timeout", "reboot", "host", "dump_guest_core", "name", "initrd_name", "report_always"}
)
"""Fields of a configuration that the owner of a run decides on, and the guest does not see."""
_MOST_TOLD = 40


@dataclass(frozen=True, slots=True)
class SavedMemory:
    """Contents of guest memory from `gpa` on: whole pages, bytes."""

    gpa: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SavedConsole:
    """State of the console. `said`: bytes of output so far; these are not in here.

    `unread` is input that the UART has not taken; `input_ended`: no more will come.
    """

    said: int
    unread: bytes
    input_ended: bool


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """State of a machine between two instructions of all its vCPUs, with no exit under way.

    `devices` are values by the devices' names (`Board.save_devices`); `states` the page states,
    ascending; `memory` what is not zero, ascending: pages that are in none of them are zero.
    """

    config: MachineConfig
    vcpus: tuple[SavedVcpu, ...]
    vm: SavedVm
    devices: tuple[tuple[str, object], ...]
    states: tuple[PageRun, ...]
    memory: tuple[SavedMemory, ...]
    console: SavedConsole

    def to_file(self, path: str | Path) -> None:
        """Write it to a file, in place of what is there: whole, or not at all.

        The file holds the guest's memory, and only its owner may read it. Raises `UsageError` for a
        machine with devices that the library's user has added, `NoPermissionError` and others.
        """
        from pyvmm.machine.saved_file import write

        write(Path(path), self, KINDS)

    @classmethod
    def from_file(cls, path: str | Path) -> SavedMachine:
        """Read what `to_file` of the same version of pyvmm wrote.

        Nothing in a file is executed. Raises `SavedFileError` for one that is not whole, or was not
        written so, `NoInputError` and others where it cannot be read.
        """
        from pyvmm.machine.saved_file import read

        return read(Path(path), cls, KINDS)


KINDS = (SavedMachine, SavedMemory, SavedConsole)
"""Kinds that files may have beside those of hosts and devices."""


def require_same_machine(saved: MachineConfig, here: MachineConfig) -> None:
    """Raise `UsageError`, which names both, unless a guest of `saved` finds itself at home here."""
    for field in fields(MachineConfig):
        theirs, ours = _seen(getattr(saved, field.name)), _seen(getattr(here, field.name))
        if field.name not in _OWNERS and theirs != ours:
            raise UsageError(
                f"restore a machine saved with {field.name} {_told(theirs)}",
                f"this one has {_told(ours)}",
                "make it with the configuration that was saved",
            )


def _seen(value: object) -> object:
    return value.seen if isinstance(value, Hardware) else value


def _told(value: object) -> str:
    text = str(getattr(value, "value", value))
    if not isinstance(value, bytes):
        return text
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}... ({len(value)} bytes)"
