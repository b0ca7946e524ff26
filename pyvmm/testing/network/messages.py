# SPDX-License-Identifier: MIT
"""Requests to the process that holds a network, and its answers, as bytes. Pure.

Descriptors go beside them (`channel`): which of them has some is said here.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from pyvmm.typed_values import Codec, UnfitValueError, no_number


@dataclass(frozen=True, slots=True)
class OpenNetwork:
    """Make a namespace with a switch, which has `address` (CIDR).

    With it comes the socket that the namespace's holder listens to. The answer has a pidfd of the
    holder.
    """

    address: str
    mtu: int


@dataclass(frozen=True, slots=True)
class AddPort:
    """Make a tap of that name at the switch. The answer has a descriptor for each queue."""

    name: str
    queues: int
    mtu: int


@dataclass(frozen=True, slots=True)
class SetLink:
    """Set a port up or down, as an administrator of the switch does."""

    name: str
    up: bool


@dataclass(frozen=True, slots=True)
class Impair:
    """Have netem do this to what goes to a port's guest; nothing of it: take netem away.

    Probabilities are in percent, times in microseconds.
    """

    name: str
    loss: float
    duplicate: float
    corrupt: float
    delay: int
    jitter: int


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give the switch's own interface another address (CIDR)."""

    address: str


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Make a socket in the namespace. The answer has it."""

    family: int
    kind: int
    protocol: int


@dataclass(frozen=True, slots=True)
class StartCapture:
    """Write all frames from now on to the file that comes along, up to `limit` bytes (0: all).

    The answer has the capture's number.
    """

    limit: int


@dataclass(frozen=True, slots=True)
class StopCapture:
    """End a capture, by its number, when all frames up to now are in its file."""

    number: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Have all frames up to now in the files of all captures."""


@dataclass(frozen=True, slots=True)
class Started:
    """Answer to the start of a capture: its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Captured:
    """Frames that a capture has, and has not; `trouble` is why it ended early, "" if it did not."""

    number: int
    frames: int
    lost: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Done:
    """Answer to what gives nothing but descriptors."""


class RefusalKind(enum.Enum):
    """Kind of reason for which something was not done."""

    USAGE = "usage"
    """It cannot be asked for."""
    LACKS = "lacks"
    """This machine cannot do it, or does not let us."""
    SYSTEM_CALL = "system call"
    """The kernel refused what should have worked."""
    DEFECT = "defect"
    """It is one of ours."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer to what was not done, in the words of an error of pyvmm's."""

    kind: RefusalKind
    attempt: str
    cause: str
    remedy: str
    errno: int


Request: TypeAlias = (
    OpenNetwork
    | AddPort
    | SetLink
    | Impair
    | AddAddress
    | OpenSocket
    | StartCapture
    | StopCapture
    | Flush
)
Answer: TypeAlias = Done | Started | Captured | Refusal

_CODEC = Codec(
    (
        *(OpenNetwork, AddPort, SetLink, Impair, AddAddress, OpenSocket),
        *(StartCapture, StopCapture, Flush, Started, Captured, Done, Refusal),
    )
)


def _no_bytes(value: object) -> NoReturn:
    raise UnfitValueError(f"{value!r:.40} is no part of a message")


def written(message: Request | Answer) -> bytes:
    """A message as bytes."""
    return json.dumps(_CODEC.written(message, _no_bytes)).encode()


def read_request(data: bytes) -> Request:
    """The request that `data` is. Raises `UnfitValueError`, and `ValueError` for no JSON."""
    found: Request = _CODEC.read(Request, _parsed(data), _no_bytes)
    return found


def read_answer(data: bytes) -> Answer:
    """The answer that `data` is. Raises as `read_request`."""
    found: Answer = _CODEC.read(Answer, _parsed(data), _no_bytes)
    return found


def _parsed(data: bytes) -> Any:
    return json.loads(data, parse_constant=no_number)
