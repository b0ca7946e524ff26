# SPDX-License-Identifier: MIT
"""Operations that are raced against each other, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Act(enum.Enum):
    """Operation that a thread does."""

    BIND = "bind"
    UNBIND = "unbind"
    CLOSE_FILE = "close-file"
    CLOSE_VM = "close-vm"
    GUEST = "guest-access"
    PUNCH = "punch-hole"
    MEMORY_ERROR = "memory-error"


@dataclass(frozen=True, slots=True)
class Task:
    """An act with its objects; those that it does not need are 0."""

    act: Act
    vm: int = 0
    slot: int = 0
    file: int = 0

    def __str__(self) -> str:
        if self.act is Act.BIND:
            return f"bind slot{self.slot} of vm{self.vm} to file{self.file}"
        if self.act in (Act.UNBIND, Act.GUEST):
            return f"{self.act.value} slot{self.slot} of vm{self.vm}"
        return (
            f"{self.act.value} vm{self.vm}"
            if self.act is Act.CLOSE_VM
            else (f"{self.act.value} file{self.file}")
        )
