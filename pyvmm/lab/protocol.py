# SPDX-License-Identifier: MIT
"""Protocol between the lab's two sides: frames, their meaning, and a codec without any I/O.

`guest/wire.h` is the other side's; a test compares both. A frame is a 12-byte header and a
payload; a *channel* is one command. The same frames go between a client (`pyvmm lab run`) and the
keeper (the process that owns QEMU), where a connection carries one command, and between the keeper
and the lab's first process, where the keeper has given the command a channel number of its own.

Flow control is from end to end: whoever sends a stream may have `WINDOW` bytes on their way; the
reader grants as many more as it has passed on (CREDIT). So nobody in between needs more memory than
that, and a slow reader holds up its own stream only.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyvmm.errors import PyvmmError

VERSION = 1
DATA_MAX = 32 << 10
"""The largest payload of a DATA frame, in bytes."""
PAYLOAD_MAX = 8 << 20
WINDOW = 256 << 10

_HEADER = struct.Struct("<BBHII")
HEADER_SIZE = _HEADER.size
_START = struct.Struct("<II4HII")
START_FIXED_SIZE = _START.size
_WORDS = struct.Struct("<II")
_WORD = struct.Struct("<I")
_WINDOW_SIZE = struct.Struct("<4H")


class FrameType(enum.IntEnum):
    """The frames, with their direction and payload. All numbers are little-endian."""

    HELLO = 1
    """From the lab, once: version, facts (`Fact`), and the kernel's release as text."""
    START = 2
    """To the lab: a `Request`."""
    STARTED = 3
    """From the lab: the process number there."""
    REFUSED = 4
    """From the lab, the last of its channel: the step (`Step`) and the errno that failed there."""
    DATA = 5
    """Both ways: bytes of a stream."""
    CLOSE = 6
    """Both ways: the stream has ended; from a stream's reader: it will not read any more."""
    CREDIT = 7
    """Both ways: so many bytes more may be sent."""
    SIGNAL = 8
    """To the lab: a signal's number, and 1 if for the process group, 0 for the process alone."""
    RESIZE = 9
    """To the lab: the terminal's rows, columns, and both in pixels (four u16)."""
    HANGUP = 10
    """To the lab: the client has gone; the command gets SIGHUP, and a second later SIGKILL."""
    EXITED = 11
    """From the lab, the last of its channel: 0 and the exit status, or 1 and the signal."""
    PRELOAD = 12
    """To the lab: a `Request` that starts the preloaded process (`pyvmm.lab.preload`)."""
    PRELOADED = 13
    """From the lab: 1 when that process is ready, 0 when it has gone."""
    FORGET = 14
    """To the lab: files of the cached folders have changed."""

    STATUS = 32
    """Client to keeper, empty; the answer is JSON."""
    DOWN = 33
    """Client to keeper, empty: end the lab. The connection closes when it has ended."""
    FAILED = 34
    """Keeper to client, the last: JSON that `pyvmm.lab.failures` understands."""
    READY = 35
    """Keeper to the one that started it: the lab is up."""


class Stream(enum.IntEnum):
    """A command's streams. TERMINAL is what its pty shows; INPUT also feeds the pty."""

    INPUT = 0
    OUTPUT = 1
    ERROR = 2
    TERMINAL = 3


class StartFlag(enum.IntFlag):
    """Kinds of the command's descriptors 0, 1 and 2. Neither bit: a pipe."""

    TERMINAL_INPUT = 0x01
    TERMINAL_OUTPUT = 0x02
    TERMINAL_ERROR = 0x04
    CLOSED_INPUT = 0x08
    CLOSED_OUTPUT = 0x10
    CLOSED_ERROR = 0x20
    MAY_FORK = 0x40
    """The preloaded process may fork for it, if its token is the request's."""


NO_FLAGS = StartFlag(0)
TERMINALS = StartFlag.TERMINAL_INPUT | StartFlag.TERMINAL_OUTPUT | StartFlag.TERMINAL_ERROR


class Fact(enum.IntFlag):
    """Features of the lab's kernel."""

    KVM = 0x1
    PRIVATE_VM = 0x2
    """KVM_X86_SW_PROTECTED_VM."""
    MEMORY_ATTRIBUTES = 0x4
    """KVM_MEMORY_ATTRIBUTE_PRIVATE, of VMs or of guest_memfds."""
    SCRATCH_OVERLAY = 0x8
    """/tmp shows the host's files beneath what was written."""


class Step(enum.IntEnum):
    """Step at which starting a command failed."""

    REQUEST = 1
    DIRECTORY = 2
    EXECUTE = 3
    RESOURCES = 4


class ProtocolError(PyvmmError):
    """The other side sent what is no frame, or not one of this protocol."""

    def __init__(self, cause: str) -> None:
        super().__init__("understand the other side of the lab's channel", cause)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `type` stays a number: what a newer side sends need not be known here."""

    type: int
    stream: int = 0
    channel: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Its bytes. Raises `ProtocolError` for a payload above `PAYLOAD_MAX`."""
        if len(self.payload) > PAYLOAD_MAX:
            raise ProtocolError(f"a frame of {len(self.payload)} bytes is too long")
        header = _HEADER.pack(self.type, self.stream, 0, self.channel, len(self.payload))
        return header + self.payload

    def words(self) -> tuple[int, int]:
        """The payload's first two numbers; 0 for each that is not there."""
        first, second = _WORDS.unpack_from(self.payload.ljust(_WORDS.size, b"\0"))
        return first, second


def credit(stream: int, count: int) -> Frame:
    """`count` bytes more may be sent on `stream`."""
    return Frame(FrameType.CREDIT, stream, payload=_WORD.pack(count))


def signal_frame(number: int, whole_group: bool) -> Frame:
    """Send signal `number` to the command's process, or to its process group."""
    return Frame(FrameType.SIGNAL, payload=_WORDS.pack(number, whole_group))


def resize(size: WindowSize) -> Frame:
    """The terminal's size has changed."""
    return Frame(FrameType.RESIZE, payload=_WINDOW_SIZE.pack(*size))


class Decoder:
    """Bytes in, whole frames out, whatever pieces the bytes come in."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Raises `ProtocolError` for what is none."""
        buffer = self._buffer
        buffer += data
        used = 0
        try:
            while len(buffer) - used >= HEADER_SIZE:
                kind, stream, zero, channel, length = _HEADER.unpack_from(buffer, used)
                if zero or length > PAYLOAD_MAX:
                    raise ProtocolError(f"no frame begins with {buffer[used : used + 12].hex()}")
                end = used + HEADER_SIZE + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[used + HEADER_SIZE : end])
                used = end
                yield Frame(kind, stream, channel, payload)
        finally:
            del buffer[:used]

    @property
    def is_between_frames(self) -> bool:
        """True while the bytes so far are whole frames: an end here is no cut."""
        return not self._buffer


WindowSize = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Request:
    """A command to start: as `execve` takes it, bytes without zero bytes.

    `mask` is the umask, `window` the terminal's rows, columns and both in pixels; `token` stands
    for the code that a preloaded process must have loaded to serve it.
    """

    arguments: Sequence[bytes]
    environment: Sequence[bytes]
    directory: bytes
    flags: StartFlag = NO_FLAGS
    mask: int = 0o022
    window: WindowSize = (24, 80, 0, 0)
    token: bytes = b""

    def encode(self) -> bytes:
        """The payload of START or PRELOAD."""
        fixed = _START.pack(
            self.flags, self.mask, *self.window, len(self.arguments), len(self.environment)
        )
        texts = (self.directory, self.token, *self.arguments, *self.environment)
        return fixed + b"".join(text + b"\0" for text in texts)

    @classmethod
    def decode(cls, payload: bytes) -> Request:
        """The inverse of `encode`. Raises `ProtocolError`."""
        if len(payload) < _START.size:
            raise ProtocolError("a request is cut short")
        flags, mask, rows, columns, wide, high, arguments, environment = _START.unpack_from(payload)
        texts = payload[_START.size :].split(b"\0")
        if len(texts) != arguments + environment + 3 or texts[-1] or not arguments:
            raise ProtocolError("a request's counts and its strings contradict each other")
        return cls(
            arguments=tuple(texts[2 : 2 + arguments]),
            environment=tuple(texts[2 + arguments : -1]),
            directory=texts[0],
            flags=StartFlag(flags),
            mask=mask,
            window=(rows, columns, wide, high),
            token=texts[1],
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """Greeting of the lab when it is up: its version, kernel features and release."""

    version: int
    facts: Fact
    release: str

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """From HELLO's payload. Raises `ProtocolError`."""
        if len(payload) < _WORDS.size:
            raise ProtocolError("a greeting is cut short")
        version, facts = _WORDS.unpack_from(payload)
        if version != VERSION:
            raise ProtocolError(f"it speaks version {version}, we {VERSION}: run make guests")
        return cls(version, Fact(facts), payload[_WORDS.size :].decode("ascii", "replace"))
