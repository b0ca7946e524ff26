# SPDX-License-Identifier: MIT
"""Usages of acts, for who wants to type one."""

from __future__ import annotations

import enum
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields

from pyvmm.demo.telling.acts import NAMES

_FEW = 4


def usages() -> Iterator[str]:
    """A line for each act: its word and its arguments, those in brackets may be left out.

    Of an argument that is one of a few words these are given.
    """
    for name, kind in NAMES.items():
        words = [name]
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            hint = hints[field.name]
            few = isinstance(hint, type) and issubclass(hint, enum.Enum) and len(hint) <= _FEW
            said = "|".join(str(one.value) for one in hint) if few else field.name
            words.append(said if field.default is MISSING else f"[{said}]")
        yield " ".join(words)
