# SPDX-License-Identifier: MIT
"""Operations that are raced against each other, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.lifetime.locks import (
    BOTH_PAGES,
    FIRST_PAGE,
    SECOND_PAGE,
)


class Act(enum.Enum):
    """Operation that a thread does."""

    BIND = "bind"
    UNBIND = "unbind"
    CLOSE_FILE = "close-file"
    CLOSE_VM = "close-vm"
    GUEST = "guest-access"
    PUNCH = "punch-hole"
    MEMORY_ERROR = "memory-error"
    REOPEN = "reopen"
    CLOSE_VCPU = "close-vcpu"
    LINK = "link"
    POPULATE = "populate"


ACTS_OF_A_DESIGN = tuple(act for act in Act if act not in (Act.REOPEN, Act.LINK))
"""Acts but what others do with freed memory, and what no kernel has."""


class Failure(enum.Enum):
    """The step of a binding at which there is no memory."""

    STORE = "no memory for its second page's binding"
    SLOT = "no memory for its slot"


@dataclass(frozen=True, slots=True)
class Task:
    """An act with its objects; those that it does not need are 0. `pages`: a range, as a mask."""

    act: Act
    vm: int = 0
    slot: int = 0
    file: int = 0
    pages: int = FIRST_PAGE
    fails: Failure | None = None

    def __str__(self) -> str:
        words = _WORDS[self.act].format(self)
        if self.pages != FIRST_PAGE:
            words += f", {_RANGES[self.pages]}"
        return words if self.fails is None else f"{words}: {self.fails.value}"


_WORDS = {
    Act.BIND: "bind slot{0.slot} of vm{0.vm} to file{0.file}",
    Act.UNBIND: "unbind slot{0.slot} of vm{0.vm}",
    Act.CLOSE_FILE: "close-file file{0.file}",
    Act.CLOSE_VM: "close-vm vm{0.vm}",
    Act.GUEST: "guest-access slot{0.slot} of vm{0.vm}",
    Act.PUNCH: "punch-hole file{0.file}",
    Act.MEMORY_ERROR: "memory-error file{0.file}",
    Act.REOPEN: "reopen file{0.file} for vm{0.vm}",
    Act.CLOSE_VCPU: "close-vcpu of vm{0.vm}",
    Act.LINK: "link file{0.file} for vm{0.vm}",
    Act.POPULATE: "populate slot{0.slot} of vm{0.vm}",
}
_RANGES = {SECOND_PAGE: "page 1", BOTH_PAGES: "both pages"}
