# SPDX-License-Identifier: MIT
"""Operations as words that people type: ``create-vm``, ``bind:vm=1,slot=1``."""

from __future__ import annotations

import difflib
import re

from pyvmm.errors import UsageError
from pyvmm.lifetime.operations import NUMBERS_OF, Kind, Operation

_KINDS = {kind.name.lower().replace("_", "-"): kind for kind in Kind}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_NUMBER = re.compile("[0-9]{1,3}", re.ASCII)
_MOST = 255
_ATTEMPT = "do an operation on VMs and files"


def operation_words(operation: Operation) -> str:
    """The operation's word, and its numbers that are not 0; `parse_operation` gives it back."""
    name = _NAMES[operation.kind]
    numbers = [
        f"{number}={value}"
        for number in NUMBERS_OF[operation.kind]
        if (value := getattr(operation, number))
    ]
    return f"{name}:{','.join(numbers)}" if numbers else name


def parse_operation(words: str) -> Operation:
    """The operation for words; numbers that are not given are 0.

    Raises `UsageError`, which names the nearest operation, or the numbers that this one has.
    """
    name, colon, rest = words.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, _KINDS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(_KINDS)}"
        raise UsageError(_ATTEMPT, f"there is no {name!r:.40}", remedy)
    numbers: dict[str, int] = {}
    for part in rest.split(",") if colon else ():
        number, _, value = part.partition("=")
        if number not in NUMBERS_OF[kind]:
            raise UsageError(_ATTEMPT, f"{name} has no {number!r:.40}", _usage(kind))
        if number in numbers:
            raise UsageError(_ATTEMPT, f"{name} has its {number} twice", _usage(kind))
        if _NUMBER.fullmatch(value) is None or int(value) > _MOST:
            cause = f"{value!r:.40} is no number of a {number}"
            raise UsageError(_ATTEMPT, cause, _usage(kind))
        numbers[number] = int(value)
    return Operation(kind, **numbers)


def _usage(kind: Kind) -> str:
    numbers = ",".join(f"{number}=0" for number in NUMBERS_OF[kind])
    return f"as {_NAMES[kind]}:{numbers}" if numbers else f"as {_NAMES[kind]}"
