# SPDX-License-Identifier: MIT
"""Values of options of the form ``VALUE[,NAME=VALUE...]``, as QEMU writes such options.

A comma that belongs to a value is doubled (QEMU's ``util/qemu-option.c``).
"""

from __future__ import annotations

import argparse
import enum
from collections.abc import Iterable
from typing import TypeVar

E = TypeVar("E", bound=enum.Enum)


def named_values(text: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split ``VALUE,NAME=VALUE...`` into the first value and the others by their names.

    Raises `argparse.ArgumentTypeError` for a name that is not among `known` or comes twice.
    """
    # No argument has a zero byte, so that it can stand for a comma of a value meanwhile.
    first, *rest = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    values: dict[str, str] = {}
    names = tuple(known)
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in names or not equals or name in values:
            why = f"it may be {'=, '.join(names)}=" if names else "a comma of a path is doubled"
            if name in values:
                why = f"{name}= comes twice"
            raise argparse.ArgumentTypeError(f"{part!r} cannot be: {why}")
        values[name] = value
    return first, values


def one_of(kind: type[E], name: str, value: str) -> E:
    """Take a value out of a closed set. Raises `argparse.ArgumentTypeError`."""
    try:
        return kind(value)
    except ValueError:
        known = " or ".join(each.value for each in kind)
        raise argparse.ArgumentTypeError(f"{name}={value} cannot be: it is {known}") from None


def switch(name: str, value: str) -> bool:
    """Take a value that is on or off. Raises `argparse.ArgumentTypeError`."""
    if value not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{name}={value} cannot be: it is on or off")
    return value == "on"
