# SPDX-License-Identifier: MIT
"""Token of the code that a process has loaded: one that changes when the code on disk does.

The preloaded process (`pyvmm.lab.preload`) serves a command only if the command would have loaded
the very code that it has loaded itself. The token is taken outside the lab, where looking at files
is quick and always current.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_PACKAGE = str(Path(__file__).absolute().parents[1])
_PREFIXES = (b"PYTHON", b"LC_", b"LANG", b"MALLOC_", b"LD_", b"VIRTUAL_ENV")


def code_token() -> bytes:
    """Stands for the interpreter, pyvmm's files and the packages installed, as they are now.

    Of a folder of packages only its own time is looked at, which changes with what is installed.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(os.fsencode(sys.executable))
    _add(digest, _PACKAGE, deep=True)
    for folder in filter(_holds_packages, sys.path):
        _add(digest, folder, deep=False)
    return digest.hexdigest().encode()


def _add(digest: hashlib.blake2b, folder: str, *, deep: bool) -> None:
    state = Path(folder).stat()
    digest.update(f"{folder} {state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    if not deep:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in ("__pycache__", "build"):
                    _add(digest, entry.path, deep=True)
            elif entry.name.endswith((".py", ".so")):
                found = entry.stat()
                digest.update(f"{entry.name} {found.st_mtime_ns} {found.st_size}\n".encode())


def installation_times() -> tuple[int, ...]:
    """Times that change when something is installed: packages of Python's, and the system's."""
    folders = (*filter(_holds_packages, sys.path), "/var/lib/dpkg/status", "/usr/bin", "/usr/lib")
    times = []
    for folder in folders:
        with suppress(OSError):
            times.append(Path(folder).stat().st_mtime_ns)
    return tuple(times)


def _holds_packages(folder: str) -> bool:
    return folder.endswith("-packages") and Path(folder).is_dir()


def environment_token(environment: Mapping[bytes, bytes]) -> bytes:
    """Stands for the variables that an interpreter reads when it starts."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(environment):
        if key.startswith(_PREFIXES):
            digest.update(key + b"=" + environment[key] + b"\0")
    return digest.hexdigest().encode()


def token(environment: Mapping[bytes, bytes]) -> bytes:
    """Both: what START and PRELOAD carry. The part before the colon is `code_token`."""
    return code_token() + b":" + environment_token(environment)


def entry_point() -> str:
    """The pyvmm command of this environment."""
    return str(Path(sys.executable).parent / "pyvmm")
