# SPDX-License-Identifier: MIT
"""Values as JSON, and back: by their declared types, and of known kinds only.

A value is a frozen dataclass or named tuple of numbers, text, bytes, enumerations, and tuples or
frozen sets of such. It becomes ``{"is": "GpaRange", "start": 0, ...}``, and what becomes of bytes
is the caller's choice. Reading makes values of the kinds given, with the fields that these declare,
of the types they declare: nothing that is read says what is called or imported.
"""

from __future__ import annotations

import enum
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_KIND = "is"
"""Key of a value's kind: a word that no field can be called by."""
_NUMBERS = range(-(1 << 63), 1 << 256)
"""Numbers that a field may have: those with the most bits are the model's local APIC's."""


class UnfitValueError(Exception):
    """A value that is not to be written, or not to be read: why, in words."""


class Codec:
    """Writes values of `kinds`, and reads them.

    `names_for_types` are what types in the kinds' annotations are called by that their modules
    import for type checkers alone.
    """

    def __init__(
        self, kinds: Iterable[type], names_for_types: Mapping[str, Any] | None = None
    ) -> None:
        self._names = dict(names_for_types or {})
        self._known: dict[str, Mapping[str, Any]] = {}
        self._kinds = {kind.__name__: kind for kind in kinds}

    def _fields(self, kind: type) -> Mapping[str, Any]:
        """Fields of a kind in their order, with their types."""
        found = self._known.get(kind.__name__)
        if found is None:
            hints = typing.get_type_hints(kind, localns=self._names)
            names = getattr(kind, "_fields", ())
            if is_dataclass(kind):
                names = tuple(field.name for field in fields(kind))
            found = self._known[kind.__name__] = {name: hints[name] for name in names}
        return found

    # -- writing --

    def written(self, value: Any, put: Callable[[bytes], Any]) -> Any:
        """Value as JSON has it, with what `put` makes of its bytes. Raises `UnfitValueError`."""
        kind = type(value)
        if kind is bytes:
            return put(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if isinstance(value, enum.Enum):
            return value.name
        if self._kinds.get(kind.__name__) is kind:
            parts = {name: self.written(getattr(value, name), put) for name in self._fields(kind)}
            return {_KIND: kind.__name__, **parts}
        if kind is tuple:
            return [self.written(one, put) for one in value]
        if kind is frozenset:
            return sorted((self.written(one, put) for one in value), key=json.dumps)
        raise UnfitValueError(f"it has a {kind.__name__}, which cannot be written")

    # -- reading --

    def read(self, hint: Any, given: Any, take: Callable[[Any], bytes]) -> Any:
        """Value of the type `hint` that `written` gave; `take` undoes what `put` did.

        Raises `UnfitValueError` where it is none, and what making the value raises.
        """
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            return self._one_of(typing.get_args(hint), given, take)
        if typing.get_origin(hint) is tuple:
            return self._tuple(typing.get_args(hint), given, take)
        if typing.get_origin(hint) is frozenset:
            return self._set(typing.get_args(hint)[0], given, take)
        if hint is bytes:
            return take(given)
        if hint in (bool, int, float, str):
            return plain(hint, given)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            name = plain(str, given)
            if name not in hint.__members__:
                raise UnfitValueError(f"there is no {hint.__name__} {name!r:.40}")
            return hint[name]
        return self._made(hint, given, take)

    def _one_of(self, hints: tuple[Any, ...], given: Any, take: Callable[[Any], bytes]) -> Any:
        if given is None and type(None) in hints:
            return None
        rest = tuple(hint for hint in hints if hint is not type(None))
        if len(rest) == 1:
            return self.read(rest[0], given, take)
        if type(given) in rest and type(given) in (bool, int, float, str):
            return plain(type(given), given)
        return self._made(tuple(one for one in rest if isinstance(one, type)), given, take)

    def _tuple(self, hints: tuple[Any, ...], given: Any, take: Callable[[Any], bytes]) -> Any:
        if not isinstance(given, list):
            raise UnfitValueError(f"{given!r:.40} is no list")
        if len(hints) == 2 and hints[1] is Ellipsis:
            hints = (hints[0],) * len(given)
        if len(hints) != len(given):
            raise UnfitValueError(f"a list has {len(given)} entries, not {len(hints)}")
        return tuple(self.read(hint, one, take) for hint, one in zip(hints, given, strict=True))

    def _set(self, hint: Any, given: Any, take: Callable[[Any], bytes]) -> Any:
        found = frozenset(self._tuple((hint, ...), given, take))
        if len(found) != len(given):
            raise UnfitValueError("a set has an entry twice")
        return found

    def _made(self, hint: Any, given: Any, take: Callable[[Any], bytes]) -> Any:
        """A value of a kind that is `hint`, one of these, or below it."""
        if not isinstance(given, dict):
            raise UnfitValueError(f"{given!r:.40} is no value of any kind")
        name = given.get(_KIND)
        kind = self._kinds.get(name) if isinstance(name, str) else None
        if kind is None or not issubclass(kind, hint):
            raise UnfitValueError(f"{name!r:.40} is no kind of value to be there")
        wanted = self._fields(kind)
        if given.keys() != {_KIND, *wanted}:
            raise UnfitValueError(f"a {kind.__name__} has not the fields that it should have")
        return kind(**{name: self.read(wanted[name], given[name], take) for name in wanted})


def plain(kind: type, given: Any) -> Any:
    """`given`, if it is exactly of this kind of number or text. Raises `UnfitValueError`."""
    if type(given) is not kind or (kind is int and given not in _NUMBERS):
        raise UnfitValueError(f"{_told(given)} is no {kind.__name__}")
    if isinstance(given, float) and not math.isfinite(given):
        raise UnfitValueError(f"{given} is no finite number")
    return given


def no_number(name: str) -> typing.NoReturn:
    """Refuse NaN and its like: the `parse_constant` of `json.loads`. Raises `UnfitValueError`."""
    raise UnfitValueError(f"{name} is no number")


def _told(given: Any) -> str:
    return f"{given:#x}"[:40] if type(given) is int else f"{given!r:.40}"
