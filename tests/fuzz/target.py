# SPDX-License-Identifier: MIT
"""Targets of fuzzing: what there is to try, and on what."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`one` tries an input: it returns, whatever the bytes, or has found a fault by raising.

    `seeds` are inputs that get far. `most` is the size of an input in bytes. The module of a target
    is in this folder, has its name, and a variable `TARGET`; `INSTRUMENTED` beside it names the
    modules whose coverage guides (they are imported by nothing before it).
    """

    one: Callable[[bytes], None]
    seeds: Sequence[bytes]
    most: int


_NO_TARGETS = {"target"}


def names() -> list[str]:
    """Names of all targets."""
    import tests.fuzz

    found = pkgutil.iter_modules(tests.fuzz.__path__)
    return sorted(
        one.name
        for one in found
        if one.name not in _NO_TARGETS and not one.name.startswith(("_", "test_"))
    )


def target_of(name: str) -> Target:
    """The target of that name."""
    found: Target = importlib.import_module(f"tests.fuzz.{name}").TARGET
    return found
