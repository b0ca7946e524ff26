# SPDX-License-Identifier: MIT
"""Lines that say which images are files of tests, and how they are booted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from pyvmm.errors import UsageError
from pyvmm.memory.sizes import size_of
from pyvmm.testing.drivers.monitors import HostName

_FORM = (
    "a line is: GLOB [ktap] [crash] [private] [append=TEXT] [memory=SIZE] [cpus=N] "
    "[timeout=SECONDS] [host=HOST[,HOST]] [initrd=FILE]"
)

_KEYS = ("append", "memory", "cpus", "timeout", "host", "initrd")


@dataclass(frozen=True, slots=True)
class ImageLine:
    """Images that `glob` matches, and arguments of their boots (None: as the fixture `boot`).

    `is_ktap`: they print KTAP or TAP; others list their cases.
    """

    glob: str
    is_ktap: bool = False
    append: str = ""
    crash: bool = False
    private: bool = False
    memory: str | None = None
    cpus: int | None = None
    timeout: float | None = None
    hosts: tuple[HostName, ...] | None = None
    initrd: str | None = None


def read_line(line: str) -> ImageLine:
    """Read one line. Raises `UsageError` for what is none."""
    attempt = f"read the line {line!r} of pyvmm_images"
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(attempt, str(error).lower(), _FORM) from None
    if not words:
        raise UsageError(attempt, "it is empty", _FORM)
    key, is_given, value = words[0].partition("=")
    if is_given and (key in _KEYS or (key + value).isalnum()):
        raise UsageError(attempt, f"it begins with {words[0]!r}, and not with a glob", _FORM)
    found = ImageLine(words[0])
    for word in words[1:]:
        found = _with(found, word, attempt)
    return found


def _with(line: ImageLine, word: str, attempt: str) -> ImageLine:
    key, is_given, value = word.partition("=")
    match key, bool(is_given):
        case "ktap", False:
            return replace(line, is_ktap=True)
        case "crash", False:
            return replace(line, crash=True)
        case "private", False:
            return replace(line, private=True)
        case "append", True:
            return replace(line, append=value)
        case "initrd", True:
            return replace(line, initrd=value)
        case "memory", True if size_of(value):
            return replace(line, memory=value)
        case "cpus", True if value.isascii() and value.isdigit() and int(value) > 0:
            return replace(line, cpus=int(value))
        case "timeout", True if value.isascii() and value.replace(".", "", 1).isdigit():
            if float(value) > 0:
                return replace(line, timeout=float(value))
        case "host", True if set(value.split(",")) <= {host.value for host in HostName}:
            return replace(line, hosts=tuple(map(HostName, value.split(","))))
    raise UsageError(attempt, f"{word!r} makes no sense there", _FORM)


def find_line(lines: Iterable[ImageLine], path: Path, root: Path) -> ImageLine | None:
    """The first line that matches the file `path`, by its path below `root`; None without one."""
    try:
        name = path.relative_to(root).as_posix()
    except ValueError:
        name = path.as_posix()
    for line in lines:
        if fnmatchcase(name, line.glob) or fnmatchcase(path.as_posix(), line.glob):
            return line
    return None
