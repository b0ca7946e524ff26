# SPDX-License-Identifier: MIT
"""A boot's result as bytes, and back: JSON of plain values, of which nothing is called by name.

It comes from a process in which a hostile guest may have run in native code (Unicorn, QEMU), and
from inside the lab; so every value is checked to be of its kind, and all of it is bounded.
"""

from __future__ import annotations

import base64
import enum
import json
import math
from dataclasses import asdict
from typing import Any, TypeVar

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.matrix.results import EXPLANATION, Artifact, BootResult, Verdict

_LETTERS_MAX = 1 << 16
_ITEMS_MAX = 1 << 10
_COUNTS = range(1 << 63)
_STATUSES = range(-(1 << 31), 1 << 32)
_Value = TypeVar("_Value")
_Enum = TypeVar("_Enum", bound=enum.Enum)


def to_bytes(result: BootResult) -> bytes:
    """`result` as `from_bytes` reads it; texts without what goes beyond their bound."""
    outcome = result.outcome
    return json.dumps(
        {
            "key": result.key,
            "verdict": result.verdict.value,
            "reason": result.reason[:_LETTERS_MAX],
            "outcome": outcome
            and {
                **asdict(outcome),
                "kind": outcome.kind.value,
                "seconds": float(outcome.seconds),
                "detail": outcome.detail[:_LETTERS_MAX],
            },
            "seconds": float(result.seconds),
            "console": _text_of(result.console),
            "by_hand": result.by_hand[:_LETTERS_MAX],
            "place": result.place,
            "attempts": result.attempts,
            "artifacts": [[one.name, _text_of(one.content)] for one in result.artifacts],
        }
    ).encode()


def from_bytes(content: bytes) -> BootResult:
    """The result that `to_bytes` made `content` of. Raises `ValueError` for anything else."""
    try:
        given = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    fields = _of(dict, given)
    try:
        return BootResult(
            key=_text(fields.pop("key")),
            verdict=_one_of(Verdict, fields.pop("verdict")),
            reason=_text(fields.pop("reason")),
            outcome=_outcome(fields.pop("outcome")),
            seconds=_seconds(fields.pop("seconds")),
            console=_bytes(fields.pop("console")),
            by_hand=_text(fields.pop("by_hand")),
            place=_text(fields.pop("place")),
            attempts=_number(fields.pop("attempts"), _COUNTS),
            artifacts=tuple(_artifact(one) for one in _items(fields.pop("artifacts"))),
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


def _outcome(given: object) -> Outcome | None:
    if given is None:
        return None
    fields = _of(dict, given)
    exits = _of(dict, fields["exits"])
    if len(exits) > _ITEMS_MAX:
        raise ValueError(f"{len(exits)} kinds of exits")
    status = fields["status"]
    return Outcome(
        _one_of(OutcomeKind, fields["kind"]),
        _text(fields["detail"]),
        None if status is None else _number(status, _STATUSES),
        _seconds(fields["seconds"]),
        {_text(name): _number(count, _COUNTS) for name, count in exits.items()},
    )


def _artifact(given: object) -> Artifact:
    name, content = _items(given, 2)
    if name != EXPLANATION:  # It becomes a file of that name.
        raise ValueError("there is no such artifact")
    return Artifact(EXPLANATION, _bytes(content))


def _text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(given: object) -> bytes:
    return base64.b64decode(_of(str, given), validate=True)


def _of(kind: type[_Value], given: object) -> _Value:
    if type(given) is not kind:
        raise ValueError(f"a {type(given).__name__} is no {kind.__name__}")
    return given


def _text(given: object) -> str:
    text = _of(str, given)
    if len(text) > _LETTERS_MAX:
        raise ValueError(f"a text of {len(text)} letters")
    return text


def _number(given: object, allowed: range) -> int:
    number = _of(int, given)
    if number not in allowed:
        raise ValueError("a number that cannot be")
    return number


def _seconds(given: object) -> float:
    seconds = _of(float, given)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{seconds} seconds")
    return seconds


def _items(given: object, count: int | None = None) -> list[Any]:
    items: list[Any] = _of(list, given)
    if len(items) > _ITEMS_MAX or count not in {None, len(items)}:
        raise ValueError(f"a list of {len(items)}")
    return items


def _one_of(kind: type[_Enum], given: object) -> _Enum:
    return kind(_of(str, given))
