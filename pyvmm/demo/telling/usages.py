# SPDX-License-Identifier: MIT
"""Usages of acts, for who wants to type one."""

from __future__ import annotations

import enum
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, fields

from pyvmm.demo.telling.acts import (
    NAMES,
    Attack,
    Boot,
    Close,
    Convert,
    ConvertInPlace,
    Duplicate,
    End,
    HideSecret,
    HoldPage,
    Hole,
    MakeFile,
    MakeVm,
    MapFile,
    NextExit,
    Operate,
    Read,
    SetAttributes,
    SetSlot,
    Touch,
    Write,
    act_words,
)
from pyvmm.demo.telling.chapter import StageKind
from pyvmm.lifetime.operation_words import operation_words
from pyvmm.lifetime.operations import NUMBERS_OF, Operation, operations
from pyvmm.lifetime.universe import STANDARD

_FEW = 4
_LEFT_OUT = {"process", "private"}
_BARE = {MakeVm, MakeFile, SetSlot, SetAttributes, Close, Duplicate, MapFile, Hole, Read, Write}
_ACTS: Mapping[StageKind, Collection[type]] = {
    StageKind.BARE: _BARE | {ConvertInPlace, HoldPage},
    StageKind.PRIVATE: {Boot, NextExit, HideSecret, Read, Write, Convert, Touch, Attack, End},
    StageKind.PINS: (),
}
"""Acts that a stage of a kind can be asked for, but for `Look`."""


def usages(stage: StageKind) -> Iterator[str]:
    """A line for each act of a stage: its arguments, those in brackets may be left out.

    Of an argument that is one of a few words these are given, of one that is one of many in a line
    behind the act's; and operations with their numbers.
    """
    if stage is StageKind.PINS:
        yield from _operations()
    for name, kind in NAMES.items():
        if kind not in _ACTS[stage]:
            continue
        words = [name]
        many = []
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            hint = hints[field.name]
            said = field.name
            if isinstance(hint, type) and issubclass(hint, enum.Enum):
                values = [str(one.value) for one in hint]
                if len(values) <= _FEW:
                    said = "|".join(values)
                else:
                    many.append(f"  {said}: {', '.join(values)}")
            words.append(said if field.default is MISSING else f"[{said}]")
        yield " ".join(words)
        yield from many


def _operations() -> Iterator[str]:
    """A line for each kind of operation on the one process, VMs, files and slots of a stage."""
    for kind in dict.fromkeys(one.kind for one in operations(STANDARD, system_creation=False)):
        numbers = [f"{number}=0" for number in NUMBERS_OF[kind] if number not in _LEFT_OUT]
        given = f"[:{','.join(numbers)}]" if numbers else ""
        yield act_words(Operate(operation_words(Operation(kind)))) + given
