# SPDX-License-Identifier: MIT
"""Folders that a kernel can be built in: what their names may have, and what space they need."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.failures import system_call_error

GIB = 1 << 30
SPACE_TO_UNPACK = 5 * GIB // 4
SPACE_FOR_TREE = GIB // 2
"""Bytes that must be free: for package, source and objects together, and for objects alone."""

_NO_SPACE_LEFT = 16 << 20

_NOT_PLAIN = re.compile(r"[^\w./@+=~-]")


def require_plain(path: Path, remedy: str) -> None:
    """Raise `UsageError` where `path` has what the kernel's Makefiles, or make itself, trip over.

    The top-level Makefile refuses spaces and colons, once the source has been fetched and unpacked.
    """
    resolved = str(path.resolve())
    odd = sorted(set(_NOT_PLAIN.findall(resolved)))
    if odd:
        raise UsageError(
            "build a lab kernel",
            f"the kernel's build does not work in {resolved}, for {' '.join(map(repr, odd))} in it",
            remedy,
        )


def require_space(cache: Cache, needed: int) -> None:
    """Raise `HostLacksError` where less than `needed` bytes are free for a build that begins."""
    free = _free(cache)
    # A build that is under way has used part of what it needs.
    if free < needed and not any(cache.builds_under_way()):
        raise HostLacksError(
            "build a lab kernel",
            f"that needs {needed / GIB:.1f} GiB in {cache.root}, and {free / GIB:.1f} GiB are free",
            "make room, or set XDG_CACHE_HOME to a folder elsewhere",
        )


def explain_space(cache: Cache, error: Exception) -> None:
    """Raise `HostLacksError` if `error` is a disk that is full."""
    if _free(cache) < _NO_SPACE_LEFT or "No space left" in str(error):
        raise HostLacksError(
            "build a lab kernel",
            f"no space is left in {cache.root}",
            "make room and run pyvmm lab build again: it goes on where it was",
        ) from error


def _free(cache: Cache) -> int:
    try:
        return shutil.disk_usage(cache.root).free
    except OSError as error:
        raise system_call_error(f"ask how much space is free in {cache.root}", error) from error
