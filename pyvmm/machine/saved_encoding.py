# SPDX-License-Identifier: MIT
"""Saved values as JSON and blobs, and back: by their declared types, and of known kinds only.

A value is a frozen dataclass or named tuple of numbers, text, bytes, enumerations, and tuples of
such. It becomes ``{"is": "SavedUart", "ier": 5, ...}``; bytes become their length, and follow in
a row beside it. Reading makes values of `KINDS`, with the fields that these declare, of the types
they declare: nothing that is read says what is called or imported.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pyvmm.devices import saved_values as devices
from pyvmm.hosts import exits, pit, saved_state
from pyvmm.hosts.kvm import saved_values as kvm
from pyvmm.hosts.model import saved_values as model
from pyvmm.machine import config, device_choice
from pyvmm.memory import layout, page_states

_OTHERS = (
    exits.MmioRead,
    exits.MmioWrite,
    pit.SavedPit,
    pit.SavedCounter,
    saved_state.Origin,
    config.MachineConfig,
    config.PrivateConfig,
    device_choice.DeviceChoice,
    device_choice.ExitPortPlace,
    layout.GpaRange,
    page_states.PageRun,
)


def _declared(module: types.ModuleType) -> Iterable[type]:
    return (
        value
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
    )


KINDS: Mapping[str, type] = types.MappingProxyType(
    {
        kind.__name__: kind
        for kind in (*_declared(devices), *_declared(kvm), *_declared(model), *_OTHERS)
    }
)
"""Kinds of values beside those of the machine's own (`Codec`), by the names they are called by."""
_KIND = "is"
"""Key of a value's kind: a word that no field can be called by."""
_NUMBERS = range(-(1 << 63), 1 << 256)
"""Numbers that a field may have: those with the most bits are the model's local APIC's."""
_ONLY_FOR_TYPES = {"Callable": Callable, "Wiring": object, "PlacedDevice": object}


class UnsavedError(Exception):
    """A value that is not to be written, or not to be read: why, in words."""


def _fields(kind: type) -> Mapping[str, Any]:
    """Fields of a kind in their order, with their types."""
    hints = typing.get_type_hints(kind, localns=_ONLY_FOR_TYPES)
    if is_dataclass(kind):
        return {field.name: hints[field.name] for field in fields(kind)}
    return {name: hints[name] for name in getattr(kind, "_fields", ())}


class Codec:
    """Writes values, and reads them; `own` are kinds beside `KINDS`."""

    def __init__(self, own: Iterable[type]) -> None:
        self._known: dict[str, Mapping[str, Any]] = {}
        self._kinds = dict(KINDS) | {kind.__name__: kind for kind in own}

    def _fields(self, kind: type) -> Mapping[str, Any]:
        found = self._known.get(kind.__name__)
        if found is None:
            found = self._known[kind.__name__] = _fields(kind)
        return found

    # -- writing --

    def written(self, value: Any, blobs: list[bytes]) -> Any:
        """Value as JSON has it; its bytes are appended to `blobs`. Raises `UnsavedError`."""
        kind = type(value)
        if kind is bytes:
            blobs.append(value)
            return len(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if isinstance(value, enum.Enum):
            return value.name
        if self._kinds.get(kind.__name__) is kind:
            parts = {name: self.written(getattr(value, name), blobs) for name in self._fields(kind)}
            return {_KIND: kind.__name__, **parts}
        if kind is tuple:
            return [self.written(one, blobs) for one in value]
        raise UnsavedError(f"it has a {kind.__name__}, which no file can have")

    # -- reading --

    def read(self, hint: Any, given: Any, take: Callable[[int], bytes]) -> Any:
        """Value of the type `hint` that `written` gave; `take` gives the next so many bytes.

        Raises `UnsavedError` where it is none, and `UsageError` as making it does.
        """
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            return self._one_of(typing.get_args(hint), given, take)
        if typing.get_origin(hint) is tuple:
            return self._tuple(typing.get_args(hint), given, take)
        if hint is bytes:
            return take(_plain(int, given))
        if hint in (bool, int, float, str):
            return _plain(hint, given)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            name = _plain(str, given)
            if name not in hint.__members__:
                raise UnsavedError(f"there is no {hint.__name__} {name!r:.40}")
            return hint[name]
        return self._made(hint, given, take)

    def _one_of(self, hints: tuple[Any, ...], given: Any, take: Callable[[int], bytes]) -> Any:
        if given is None and type(None) in hints:
            return None
        rest = [hint for hint in hints if hint is not type(None)]
        if len(rest) == 1:
            return self.read(rest[0], given, take)
        return self._made(tuple(rest), given, take)

    def _tuple(self, hints: tuple[Any, ...], given: Any, take: Callable[[int], bytes]) -> Any:
        if not isinstance(given, list):
            raise UnsavedError(f"{given!r:.40} is no list")
        if len(hints) == 2 and hints[1] is Ellipsis:
            hints = (hints[0],) * len(given)
        if len(hints) != len(given):
            raise UnsavedError(f"a list has {len(given)} entries, not {len(hints)}")
        return tuple(self.read(hint, one, take) for hint, one in zip(hints, given, strict=True))

    def _made(self, hint: Any, given: Any, take: Callable[[int], bytes]) -> Any:
        """A value of a kind that is `hint`, one of these, or below it."""
        if not isinstance(given, dict):
            raise UnsavedError(f"{given!r:.40} is no value of any kind")
        name = given.get(_KIND)
        kind = self._kinds.get(name) if isinstance(name, str) else None
        if kind is None or not issubclass(kind, hint):
            raise UnsavedError(f"{name!r:.40} is no kind of value to be there")
        wanted = self._fields(kind)
        if given.keys() != {_KIND, *wanted}:
            raise UnsavedError(f"a {kind.__name__} has not the fields that it should have")
        return kind(**{name: self.read(wanted[name], given[name], take) for name in wanted})


def _plain(kind: type, given: Any) -> Any:
    if type(given) is not kind or (kind is int and given not in _NUMBERS):
        raise UnsavedError(f"{_told(given)} is no {kind.__name__}")
    if isinstance(given, float) and not math.isfinite(given):
        raise UnsavedError(f"{given} is no finite number")
    return given


def _told(given: Any) -> str:
    return f"{given:#x}"[:40] if type(given) is int else f"{given!r:.40}"
