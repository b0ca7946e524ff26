# SPDX-License-Identifier: MIT
"""Lines of JSON between a reader's side and a stage's process: orders in, what became of them out.

Either side makes values of the other's lines by their declared types alone, so that a stage's
process that was taken over can say nothing else. Bytes are base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import types
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeAlias

from pyvmm.demo.telling import acts, outcomes
from pyvmm.demo.telling.chapter import Setup
from pyvmm.demo.telling.orders import ActDone, DoAct, NotDone, OpenStage, StageLost, StageOpened
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.errors import ExitCode, HostLacksError, NoPermissionError, PyvmmError, UsageError
from pyvmm.hosts import call_record
from pyvmm.lifetime.graph_of_scene import Scene
from pyvmm.lifetime.holdings import Holding
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.page_states import PageRun
from pyvmm.typed_values import Codec, UnfitValueError, no_number

LONGEST = 4 * MIB
"""Most bytes of a line, its end included."""


@dataclass(frozen=True, slots=True)
class OpenOn:
    """Order to open a stage on one host, which is that process's own: KVM, or the model."""

    host: StageHost
    order: OpenStage


@dataclass(frozen=True, slots=True)
class NoStage:
    """A stage that the host cannot have: the error, by its exit code and its parts."""

    code: int
    attempt: str
    cause: str
    remedy: str
    ticket: int

    def error(self) -> PyvmmError:
        """The error that it was."""
        for kind in (HostLacksError, NoPermissionError, UsageError):
            if kind.exit_code == self.code:
                return kind(self.attempt, self.cause, self.remedy)
        return _OtherError(self.attempt, self.cause, self.remedy)


class _OtherError(PyvmmError):
    """An error of a stage's process that is of no kind that is told apart."""

    exit_code = ExitCode.SYSTEM_CALL


@dataclass(frozen=True, slots=True)
class Alive:
    """Heartbeat of a stage's process."""


Asked: TypeAlias = OpenOn | DoAct
Answer: TypeAlias = StageOpened | NoStage | ActDone | NotDone | StageLost
Said: TypeAlias = Answer | Alive


def _declared(*modules: types.ModuleType) -> Iterable[type]:
    for module in modules:
        for value in vars(module).values():
            is_own = getattr(value, "__module__", None) == module.__name__
            if is_own and isinstance(value, type) and is_dataclass(value):
                yield value


KINDS: tuple[type, ...] = (
    *_declared(acts, outcomes, call_record),
    OpenOn, OpenStage, DoAct, Setup,
    StageOpened, NoStage, ActDone, NotDone, StageLost, Alive,
    Scene, Holding, GpaRange, PageRun,
)  # fmt: skip
_CODEC = Codec(KINDS)


def line_of(value: Asked | Said) -> bytes:
    """The value's line. Raises `UnfitValueError` for one that is longer than a line may be."""
    written = _CODEC.written(value, _put)
    line = json.dumps(written, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > LONGEST:
        raise UnfitValueError(f"it has {len(line)} bytes, more than the {LONGEST} of a line")
    return line


def asked(line: bytes) -> Asked:
    """The order on a line, its end left off. Raises `UnfitValueError` where there is none."""
    order: Asked = _read(Asked, line)
    return order


def said(line: bytes) -> Said:
    """A stage process's word on a line, its end left off. Raises `UnfitValueError`."""
    word: Said = _read(Said, line)
    return word


def _read(hint: Any, line: bytes) -> Any:
    if len(line) >= LONGEST:
        raise UnfitValueError(f"it is a line of more than {LONGEST} bytes")
    try:
        return _CODEC.read(hint, json.loads(line, parse_constant=no_number), _take)
    except (ValueError, RecursionError) as error:
        raise UnfitValueError(f"{line[:40]!r} is no JSON: {error!s:.80}") from error


def _put(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _take(given: Any) -> bytes:
    if type(given) is not str:
        raise UnfitValueError(f"{given!r:.40} is no base64")
    try:
        return base64.b64decode(given, validate=True)
    except (ValueError, binascii.Error) as error:
        raise UnfitValueError(f"{given!r:.40} is no base64: {error}") from error
