# SPDX-License-Identifier: MIT
"""Serialised reports of pytest as JSON: tuples stay tuples, which pytest and its plugins count on.

What is of no plain type (a property that a test has recorded, say) becomes text. Pure.
"""

from __future__ import annotations

from typing import Any

_TUPLE, _DICT = "tuple", "dict"


def packed(value: object) -> object:
    """Give `value` as JSON can have it: each tuple and each dict as a dict that says so."""
    match value:
        case tuple():
            return {_TUPLE: [packed(one) for one in value]}
        case list():
            return [packed(one) for one in value]
        case dict():
            return {_DICT: [[packed(name), packed(one)] for name, one in value.items()]}
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)


def unpacked(value: Any) -> Any:
    """Undo `packed`."""
    match value:
        case {"tuple": list(parts)}:
            return tuple(unpacked(one) for one in parts)
        case {"dict": list(pairs)}:
            return {unpacked(name): unpacked(one) for name, one in pairs}
        case list():
            return [unpacked(one) for one in value]
        case _:
            return value
