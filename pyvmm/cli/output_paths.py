# SPDX-License-Identifier: MIT
"""The files that a command line names: no output may be an input, and no two outputs one file.

Files are told apart by device and inode, so hard links, symbolic links, ``./x``, ``/dev/fd/3`` and
``/dev/stdout`` are seen for what they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import SystemCallError, UsageError

if TYPE_CHECKING:
    from pyvmm.machine.console.output_file import OutputFile

_Identity = tuple[object, ...]


class NamedFile(NamedTuple):
    """A file that is read or written; `role` says as what ("the image", "the run's result")."""

    role: str
    place: Path | int
    """A path, or the number of a file descriptor that we were given open."""
    is_socket: bool = False
    """True for a socket that is made there, and listens."""

    @property
    def is_descriptor(self) -> bool:
        """True for a descriptor that was inherited, not a path from the command line."""
        return isinstance(self.place, int)

    def __str__(self) -> str:
        return self.role if self.is_descriptor else f"{self.role}, {self.place}"


STANDARD_INPUT = NamedFile("standard input", 0)
STANDARD_OUTPUT = NamedFile("standard output", 1)
STANDARD_ERROR = NamedFile("standard error", 2)


def refuse_to_overwrite(outputs: Iterable[NamedFile], inputs: Iterable[NamedFile]) -> None:
    """See that `outputs` spoil neither `inputs` nor each other; nothing is opened or changed.

    Files that are not there yet count, too. Outputs may share a pipe, a terminal or /dev/null.
    Raises `UsageError`.
    """
    read = [(each, _identity(each, _read_by_many)) for each in inputs]
    written: list[tuple[NamedFile, _Identity]] = []
    for output in outputs:
        whole = _identity(output, _is_no_harm)
        for other, identity in read:
            if whole is not None and whole == identity:
                raise _refusal(output, f"it is {other}")
        own = _identity(output, _written_by_many)
        if own is None:
            continue
        for other, identity in written:
            # Which of the standard streams share a file is decided by who started us.
            if own == identity and not (output.is_descriptor and other.is_descriptor):
                first, second = (other, output) if output.is_descriptor else (output, other)
                raise _refusal(first, f"{second.role} would go there, too")
        written.append((output, own))


def write_output(file: OutputFile, text: str, attempt: str) -> None:
    """Make `text` the content of `file`, which is left alone where the text cannot be encoded.

    What is no text in it (`pyvmm.visible`) is escaped. Raises `SystemCallError`.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        fd = file.use()
        os.set_blocking(fd, True)
        with open(fd, "wb", closefd=False) as stream:
            stream.write(data)
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error


def _identity(file: NamedFile, is_free: Callable[[NamedFile, int], bool]) -> _Identity | None:
    """Equal for what is the same file; None where it `is_free`, by its mode, or cannot be told."""
    try:
        place = file.place
        found = os.fstat(place) if isinstance(place, int) else place.stat()
    except (OSError, ValueError):
        return _place_to_be(file.place) if isinstance(file.place, Path) else None
    return None if is_free(file, found.st_mode) else (found.st_dev, found.st_ino)


def _place_to_be(path: Path) -> _Identity | None:
    """Of a file that is not there: the folder it would be made in, and its name there."""
    try:
        real = path.resolve()
        folder = real.parent.stat()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        return None  # Opening it will say what is wrong.
    return folder.st_dev, folder.st_ino, real.name


def _is_no_harm(_: NamedFile, mode: int) -> bool:
    return stat.S_ISCHR(mode)


def _read_by_many(file: NamedFile, mode: int) -> bool:
    # A socket or a terminal may well be standard input and standard output.
    return stat.S_ISCHR(mode) or (file.is_descriptor and not stat.S_ISREG(mode))


def _written_by_many(_: NamedFile, mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _refusal(output: NamedFile, cause: str) -> UsageError:
    if output.is_descriptor:
        return UsageError(f"write to {output}", cause, "send it elsewhere")
    verb, where = ("make", "at") if output.is_socket else ("write", "to")
    return UsageError(f"{verb} {output.role} {where} {output.place}", cause, "name another file")
