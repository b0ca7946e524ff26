# SPDX-License-Identifier: MIT
"""Outcomes of an engine's execution: a closed set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trap:
    """An intercept: SVM's exit code, and what came with it."""

    code: int
    info: int


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
