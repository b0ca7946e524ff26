# SPDX-License-Identifier: MIT
"""Designs and universes by name, and operations of one design told under another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from pyvmm.errors import UsageError
from pyvmm.lifetime.designs import (
    JUDGED_FLAGS,
    NAMED_FIRST,
    Design,
    Remedy,
    file_pins_vm,
    file_pins_vm_moving_files,
    file_pins_vm_with_any_link,
    memslot_pins_file,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.story import Story, Told
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import STANDARD, UNIVERSES, Universe

DESIGNS = ("file-pins-vm", "memslot-pins-file")
REMEDIES = {each.name.lower().replace("_", "-"): each for each in Remedy}
MOST = 3
"""The most of anything in a universe that is put together by hand."""
_MAY_LACK = ("vcpus",)
_AT_MOST_TWO = ("processes", "types")

_VARIANTS: dict[str, Callable[[], Design]] = {
    "": file_pins_vm,
    "any-link": file_pins_vm_with_any_link,
    "moving-files": file_pins_vm_moving_files,
}
"""Of file-pins-vm, by what follows its name."""

_OTHER_KIND = {
    Kind.CREATE_FILE: Kind.CREATE_UNOWNED,
    Kind.LINK: Kind.LINK_UNOWNED,
}
_SAME_KIND = {unowned: owned for owned, unowned in _OTHER_KIND.items()}


def design_named(name: str, remedies: Iterable[str] = ()) -> Design:
    """A design by its name, with remedies. Raises `UsageError`."""
    chosen = list(remedies)
    for each in chosen:
        if each not in REMEDIES:
            raise UsageError(
                f"use the remedy {each!r}", "there is none", f"it is one of {', '.join(REMEDIES)}"
            )
    base, *marks = name.split(" + ")
    if base == "file-pins-vm" and (mark := " + ".join(marks)) in _VARIANTS:
        if chosen:
            raise UsageError("add a remedy to file-pins-vm", "it needs none")
        return _VARIANTS[mark]()
    if base == "memslot-pins-file":
        variants = {JUDGED_FLAGS, NAMED_FIRST} & set(marks)
        remedied = [each for each in marks if each not in variants]
        return memslot_pins_file(
            *(REMEDIES[each] for each in (*remedied, *chosen)),
            judges_flags=JUDGED_FLAGS in variants,
            names_first=NAMED_FIRST in variants,
        )
    raise UsageError(f"use the design {name!r}", "there is none", f"it is one of {DESIGNS}")


_NUMBER = re.compile("[0-9]{1,9}")


def universe_named(text: str) -> Universe:
    """A universe by its name, or as ``vms=2,files=1``: the rest as in the standard one.

    Raises `UsageError`.
    """
    if text in UNIVERSES:
        return UNIVERSES[text]
    attempt = f"use the universe {text!r}"
    numbers: dict[str, int] = {}
    names = [each.name for each in fields(Universe) if each.name != "name"]
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if name not in names or not equals or not _NUMBER.fullmatch(number):
            raise UsageError(
                attempt,
                f"{part!r} is neither a name ({', '.join(UNIVERSES)}) nor NAME=NUMBER",
                f"its numbers are {', '.join(names)}",
            )
        is_flag = isinstance(getattr(STANDARD, name), bool)
        numbers[name] = number == "1" if is_flag and number in ("0", "1") else int(number)
    universe = Universe(text, **{name: getattr(STANDARD, name) for name in names} | numbers)
    check_universe(universe, attempt)
    return universe


def check_universe(universe: Universe, attempt: str) -> None:
    """Raise `UsageError` for a universe that is none, or too large for anybody to see the end."""
    for each in fields(Universe):
        if each.name == "name":
            continue
        number = getattr(universe, each.name)
        if isinstance(getattr(STANDARD, each.name), bool):
            if not isinstance(number, bool):
                raise UsageError(attempt, f"{each.name} is {number!r}, not 0 or 1")
            continue
        least = 0 if each.name in _MAY_LACK else 1
        most = 2 if each.name in _AT_MOST_TWO else MOST
        if type(number) is not int or not least <= number <= most:
            raise UsageError(attempt, f"{each.name} is {number!r}, not {least} to {most}")


def check_story(story: Story) -> None:
    """Raise `UsageError` for a story whose steps are none of its universe."""
    attempt = f"read a story of {story.about or 'no property'}"
    check_universe(story.universe, attempt)
    known = set(TransitionSystem(design_named(story.design), story.universe).operations)
    for number, told in enumerate(story.steps, 1):
        if told.operation not in known:
            raise UsageError(attempt, f"step {number} is no operation of its universe")


def adapted(operations: Iterable[Operation], design: Design, universe: Universe) -> Story:
    """The same operations under a design, as far as they can be attempted there.

    Where one design creates a file for no VM, the other creates it for the VM that it is bound to
    first, or for the first VM.
    """
    system = TransitionSystem(design, universe)
    todo = list(operations)
    state, told = system.initial, []
    postponed: list[Operation] = []
    for number, operation in enumerate(todo):
        wanted = for_design(operation, design, todo[number + 1 :])
        done = False
        for each in (*postponed, wanted):
            try:
                step = system.step(state, each)
            except UsageError:
                continue
            told.append(Told(each, step.outcome, step.faults))
            state = step.state
            done = done or each is wanted
            postponed = [other for other in postponed if other is not each]
        if not done:
            if wanted.kind is operation.kind:
                break
            postponed.append(wanted)  # its VM has to be there first
    return Story(design.name, universe, "", tuple(told), "")


def for_design(
    operation: Operation, design: Design, following: Sequence[Operation] = ()
) -> Operation:
    """The operation as a design has it; `following` are those after it."""
    if design.system_creation:
        kind = _OTHER_KIND.get(operation.kind)
        return operation if kind is None else _as_kind(operation, kind, 0)
    kind = _SAME_KIND.get(operation.kind)
    if kind is None:
        return operation
    binding = next(
        (o for o in following if o.kind is Kind.BIND and o.file == operation.file), operation
    )
    return _as_kind(operation, kind, binding.vm)


def _as_kind(operation: Operation, kind: Kind, vm: int) -> Operation:
    return operation._replace(kind=kind, vm=vm)
