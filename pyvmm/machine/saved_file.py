# SPDX-License-Identifier: MIT
"""Files of saved values: written whole or not at all, and checked before anything is made of them.

::

    pyvmm saved machine 1\\n    the format and its version, 32 bytes with zeroes behind
    u64, u64                   bytes of the header; bytes of the file (little endian)
    header                     JSON: {"pyvmm": version, "saved": value}
    blobs                      bytes of the values, in the order in which the header names them
    digest                     SHA-256 of all that is before it

The digest finds what was damaged. It proves nothing about who wrote a file, so what is read is
checked as if anybody had (`saved_encoding`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pyvmm.errors import (
    ExitCode,
    NoInputError,
    NoPermissionError,
    PyvmmError,
    SystemCallError,
    UsageError,
)
from pyvmm.machine.saved_encoding import codec
from pyvmm.typed_values import UnfitValueError, no_number, plain

T = TypeVar("T")

_MAGIC: Final = b"pyvmm saved machine "
_VERSION: Final = 1
_START: Final = struct.Struct("<32sQQ")
_DIGEST: Final = hashlib.sha256().digest_size
MOST_HEADER: Final = 1 << 26
"""The largest header in bytes."""
_AGAIN: Final = "save the machine again"


@cache
def own_version() -> str:
    """Version of pyvmm, which takes a millisecond to find out."""
    return version("pyvmm")


class SavedFileError(PyvmmError):
    """A file that is no saved machine, or one that is cut, damaged or another version's."""

    exit_code = ExitCode.BAD_IMAGE


def write(path: Path, value: object, own: Iterable[type]) -> None:
    """Write a saved value to `path`, in place of what is there; only its owner may read it.

    Raises `UsageError` for a value that no file can have, `SystemCallError`, `NoPermissionError`.
    """
    attempt = f"write a saved machine to {path}"
    blobs: list[bytes] = []

    def put(data: bytes) -> int:
        blobs.append(data)
        return len(data)

    try:
        saved = codec(own).written(value, put)
    except UnfitValueError as error:
        raise UsageError(
            attempt,
            str(error),
            "leave out disks and folders, and what the library's user has added",
        ) from error
    header = json.dumps({"pyvmm": own_version(), "saved": saved}).encode()
    size = _START.size + len(header) + sum(map(len, blobs)) + _DIGEST
    start = _START.pack(_MAGIC + b"%d\n" % _VERSION, len(header), size)
    digest = hashlib.sha256()
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                for part in (start, header, *blobs):
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    except (OSError, ValueError) as error:
        _refuse(attempt, error)


def read(path: Path, kind: type[T], own: Iterable[type]) -> T:
    """Read the value of `kind` that `write` wrote to `path`.

    Raises `SavedFileError` where it is none, `NoInputError`, `NoPermissionError` and
    `SystemCallError` where it cannot be read.
    """
    attempt = f"read the saved machine {path}"
    content = memoryview(_content(path, attempt))

    def bad(cause: str, remedy: str = _AGAIN) -> SavedFileError:
        return SavedFileError(attempt, cause, remedy)

    if bytes(content[: len(_MAGIC)]) != _MAGIC or len(content) < _START.size:
        raise bad("it is no file that a machine was saved to", "give one that to_file wrote")
    first, header_size, size = _START.unpack_from(content)
    if first.rstrip(b"\0") != _MAGIC + b"%d\n" % _VERSION:
        theirs = first[len(_MAGIC) :].split(b"\n")[0].decode("ascii", "replace")
        raise bad(f"its format is {theirs!r:.20}, and this pyvmm reads '{_VERSION}'")
    if len(content) != size:
        raise bad(f"it has {len(content)} bytes, and had {size}: it was cut or added to")
    end = size - _DIGEST
    if header_size > min(end - _START.size, MOST_HEADER):
        raise bad("its header does not fit")
    if hashlib.sha256(content[:end]).digest() != content[end:]:
        raise bad("it is damaged: its digest is another one")
    at = _START.size + header_size
    blobs = _Blobs(content[at:end])
    try:
        header = json.loads(bytes(content[_START.size : at]), parse_constant=no_number)
        if not isinstance(header, dict) or header.keys() != {"pyvmm", "saved"}:
            raise UnfitValueError("its header has not the fields that it should have")
        theirs, here = header["pyvmm"], own_version()
        if theirs != here:
            raise UnfitValueError(f"pyvmm {theirs!r:.40} wrote it, and this is {here!r}")
        value = codec(own).read(kind, header["saved"], blobs.take)
        if blobs.left:
            raise UnfitValueError(f"it has {blobs.left} bytes that belong to nothing")
    except (UnfitValueError, ValueError, RecursionError) as error:
        cause = str(error) if isinstance(error, UnfitValueError) else f"its header: {error}"
        raise bad(" ".join(cause.split())) from error
    except PyvmmError as error:
        raise bad(f"{error.attempt}: {error.cause}") from error
    assert isinstance(value, kind)
    return value


class _Blobs:
    """Bytes of the values, taken one after the other."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def take(self, given: Any) -> bytes:
        """The next so many bytes."""
        size: int = plain(int, given)
        if not 0 <= size <= self.left:
            raise UnfitValueError(f"it has {self.left} bytes left where a value has {size}")
        start, self._at = self._at, self._at + size
        return bytes(self._content[start : self._at])


def _content(path: Path, attempt: str) -> bytes:
    """All of a regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise NoInputError(attempt, "it is no regular file", "give one that to_file wrote")
            return file.read()
    except (OSError, ValueError, MemoryError) as error:
        _refuse(attempt, error)


def _refuse(attempt: str, error: Exception) -> NoReturn:
    """Raise what a failure to open, read or write means."""
    match error:
        case FileNotFoundError():
            raise NoInputError(attempt, "no such file or folder", "give another path") from error
        case PermissionError():
            raise NoPermissionError(attempt, "permission denied", "give another path") from error
        case IsADirectoryError():
            raise NoInputError(attempt, "it is a directory", "give a path to a file") from error
        case OSError():
            raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
        case MemoryError():
            cause = "there is no memory for it"
            raise SystemCallError(attempt, 0, cause, "raise the limit (ulimit -v)") from error
        case _:
            raise NoInputError(attempt, str(error), "give another path") from error
