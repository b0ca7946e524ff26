# SPDX-License-Identifier: MIT
"""Definition of a QMP command: its name, its arguments, and the function that carries it out.

Names and shapes are those of QEMU's QAPI (qapi/*.json in QEMU's source).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.qmp.served import Served

_SIZE_END = 1 << 64
_INTEGER_END = 1 << 63


class ErrorClass(enum.Enum):
    """QAPI's error classes (qapi/error.json, QapiErrorClass)."""

    GENERIC_ERROR = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    KVM_MISSING_CAP = "KVMMissingCap"


class CommandError(Exception):
    """Answer of a command instead of a result: QMP's error object."""

    def __init__(
        self, description: str, error_class: ErrorClass = ErrorClass.GENERIC_ERROR
    ) -> None:
        super().__init__(description)
        self.description = description
        self.error_class = error_class


class Kind(enum.Enum):
    """Type of an argument; the values are its names in QEMU's messages."""

    STRING = "string"
    INTEGER = "integer"
    """Signed, 64 bits."""
    SIZE = "uint64"
    """Unsigned, 64 bits; a negative number that fits 64 bits is taken modulo 2^64, as in QEMU."""
    BOOLEAN = "boolean"
    LIST = "array"
    OBJECT = "object"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Argument:
    """One member of a command's ``arguments``; `choices` are an enumeration's values."""

    name: str
    kind: Kind
    optional: bool = False
    choices: tuple[str, ...] = ()


Arguments = Mapping[str, Any]
"""A command's arguments after `check`: all declared, each of its kind, none missing."""

Run = Callable[["Served", Arguments], Awaitable[object]]
"""Carries a command out; returns what JSON can say, ``{}`` where QEMU returns nothing.

Raises `CommandError`; a `PyvmmError` becomes a GenericError.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its QMP name."""

    name: str
    arguments: tuple[Argument, ...]
    run: Run


def check(arguments: Iterable[Argument], given: Mapping[str, object]) -> Arguments:
    """The `given` arguments, each checked. Raises `CommandError` in QEMU's words.

    As in QEMU (qapi/qobject-input-visitor.c) the declared ones come first, in their order, then
    what is left over.
    """
    checked: dict[str, object] = {}
    for argument in arguments:
        if argument.name in given:
            checked[argument.name] = _checked(argument, given[argument.name])
        elif not argument.optional:
            raise CommandError(f"Parameter '{argument.name}' is missing")
    for name in given:
        if name not in checked:
            raise CommandError(f"Parameter '{name}' is unexpected")
    return checked


def _checked(argument: Argument, value: object) -> object:
    match argument.kind:
        case Kind.STRING:
            fits = isinstance(value, str)
        case Kind.BOOLEAN:
            fits = isinstance(value, bool)
        case Kind.LIST:
            fits = isinstance(value, list)
        case Kind.OBJECT:
            fits = isinstance(value, dict)
        case Kind.INTEGER:
            fits = _is_integer(value, -_INTEGER_END, _INTEGER_END)
        case Kind.SIZE:
            fits = _is_integer(value, -_INTEGER_END, _SIZE_END)
            if fits and isinstance(value, int):
                value %= _SIZE_END
        case Kind.ANY:
            fits = True
    if not fits and argument.kind is Kind.SIZE:
        raise CommandError(f"Parameter '{argument.name}' expects uint64")
    if not fits:
        raise CommandError(
            f"Invalid parameter type for '{argument.name}', expected: {argument.kind.value}"
        )
    if argument.choices and value not in argument.choices:
        raise CommandError(f"Parameter '{argument.name}' does not accept value '{value}'")
    return value


def _is_integer(value: object, low: int, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < end
