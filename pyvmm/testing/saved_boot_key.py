# SPDX-License-Identifier: MIT
"""Key of a saved boot: a digest of all that the guest's state depends on at a point of its boot."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields
from types import CodeType, FunctionType
from typing import Any

from pyvmm.errors import UsageError
from pyvmm.machine.saved_file import own_version
from pyvmm.testing.failures import is_told
from pyvmm.testing.patterns import as_patterns
from pyvmm.testing.request import BootRequest

__tracebackhide__ = is_told

_UNSEEN = frozenset({"path", "timeout", "crash", "symbols", "paused", "saved", "net"})
"""Fields of a request that no guest's state depends on."""


def key_of(request: BootRequest, until: Any) -> str:
    """Digest of all that the state of a guest depends on which is brought to a point.

    Raises `UsageError` where the point is a function that is not the same for all tests.
    """
    values = {
        field.name: getattr(request, field.name)
        for field in fields(BootRequest)
        if field.name not in _UNSEEN
    }
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = hashlib.sha256(value).hexdigest()
    parts = (own_version(), values, _point(until))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _point(until: Any) -> str:
    if not callable(until):
        # What `repr` shows of a regular expression is the beginning of it.
        return repr(
            [
                (one.pattern, one.flags) if isinstance(one, re.Pattern) else one
                for one in as_patterns(until)
            ]
        )
    shared = isinstance(until, FunctionType) and until.__closure__ is None
    if not shared or "<" in until.__qualname__ or until.__defaults__ or until.__kwdefaults__:
        raise UsageError(
            f"boot until {getattr(until, '__qualname__', until)}",
            "it may not be the same for all tests",
            "give a function that stands at the top of its module, with no default values",
        )
    code = hashlib.sha256(repr(_code(until.__code__)).encode()).hexdigest()
    return f"{name_of(until)} {code}"


def name_of(until: Any) -> str:
    """Name of a point, for messages."""
    if not isinstance(until, FunctionType):
        return " or ".join(map(repr, as_patterns(until)))
    return f"{until.__module__}.{until.__qualname__} in {until.__code__.co_filename}"


def _code(value: object) -> object:
    """The same for the same code in all processes: a set's order is not."""
    if isinstance(value, CodeType):
        return value.co_code, _code(value.co_consts), value.co_names
    if isinstance(value, tuple):
        return tuple(map(_code, value))
    if isinstance(value, frozenset):
        return sorted(repr(_code(one)) for one in value)
    return value
