# SPDX-License-Identifier: MIT
"""Outcomes of an engine's execution: a closed set."""

from __future__ import annotations

from dataclasses import dataclass

_MAY_BE_FALSE = frozenset(0x40 + vector for vector in (0, 8, 10, 11, 12, 13, 14)) | {0x7F}
"""SVM's exit codes of exceptions that count for a double fault, and of a shutdown."""


@dataclass(frozen=True, slots=True)
class Trap:
    """An intercept: SVM's exit code, and what came with it."""

    code: int
    info: int

    @property
    def may_be_false(self) -> bool:
        """True for one that a page fault which was none leaves pending, or makes of a later one.

        Two make a double fault, three a shutdown. RIP is on the instruction: true ones come again.
        """
        return self.code in _MAY_BE_FALSE


@dataclass(frozen=True, slots=True)
class Stopped:
    """Something asked for it, between two instructions."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An access to [gpa, gpa + size) that no span serves; the instruction has not been executed."""

    gpa: int
    size: int
    write: bool
    fetch: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """Unicorn gave up."""

    code: int


@dataclass(frozen=True, slots=True)
class AtBreakpoint:
    """The next instruction is one that `Engine.break_at` names."""


Outcome = Trap | AtBreakpoint | Stopped | Unreachable | Broken
