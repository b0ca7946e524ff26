# SPDX-License-Identifier: MIT
"""Puzzles of who pins whom: the shortest ways to what is wrong with a design, as acts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from pyvmm.demo.telling.acts import Operate
from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import design_named, for_design
from pyvmm.lifetime.designs import file_pins_vm
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.operation_words import operation_words
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import BY_NAME
from pyvmm.lifetime.universe import SMALL


@cache
def shortest_way(design: str, name: str) -> tuple[Operate, ...]:
    """The shortest way in a design to what violates a property, or shows a possibility.

    The operations are those of Linux's design, which a stage adapts to each of its own: a file is
    created for the VM that it is bound to, behind that. Raises `UsageError` where there is none.
    """
    stories = explore(design_named(design), SMALL).stories
    if name not in stories:
        there = ", ".join(stories)
        raise UsageError(f"find a way to violate {name}", f"{design} does not", f"but: {there}")
    return _acts([told.operation for told in stories[name].steps])


def scenario(name: str) -> tuple[Operate, ...]:
    """A built-in scenario of one process. Raises `KeyError` for another name."""
    return _acts(BY_NAME[name].operations)


def _acts(operations: Iterable[Operation]) -> tuple[Operate, ...]:
    todo, linux, waiting, found = list(operations), file_pins_vm(), [], []
    created: set[int] = set()
    for number, operation in enumerate(todo):
        adapted = for_design(operation, linux, todo[number + 1 :])
        if adapted.kind is Kind.CREATE_FILE and adapted.vm not in created:
            waiting.append(adapted)
            continue
        found.append(adapted)
        if adapted.kind is Kind.CREATE_VM:
            created.add(adapted.vm)
            found += [file for file in waiting if file.vm == adapted.vm]
            waiting = [file for file in waiting if file.vm != adapted.vm]
    return tuple(Operate(operation_words(each)) for each in found)
