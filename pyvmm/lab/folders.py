# SPDX-License-Identifier: MIT
"""Folders for files kept between commands, by the rules of the XDG Base Directory Specification.

https://specifications.freedesktop.org/basedir-spec/latest/: a value that is no absolute path is
ignored, as one that is empty. The same goes for HOME here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pyvmm.errors import HostLacksError, SystemCallError

_NAME = "pyvmm"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for what can be made again; it need not exist.

    $XDG_CACHE_HOME/pyvmm, or ~/.cache/pyvmm. Raises `HostLacksError` where there is no home.
    """
    return (_absolute(environment, "XDG_CACHE_HOME") or _home(environment) / ".cache") / _NAME


def run_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder for sockets, locks and logs of what runs; made if missing, for its user only.

    $XDG_RUNTIME_DIR/pyvmm; the folder ``run`` in `cache_folder` where there is no such variable, or
    where that cannot be made (another user's after `su`, gone, on a read-only file system).
    Raises `SystemCallError`, and `HostLacksError` where somebody else could have made it.
    """
    runtime = _absolute(environment, "XDG_RUNTIME_DIR")
    if runtime is not None:
        try:
            return _private(runtime / _NAME)
        except OSError:
            pass
    path = cache_folder(environment) / "run"
    try:
        return _private(path)
    except OSError as error:
        raise SystemCallError(
            f"make the folder {path}",
            error.errno or 0,
            error.strerror or str(error),
            "set XDG_RUNTIME_DIR to a folder of yours that can be written to",
        ) from error


def shared_folder(kind: str) -> Path:
    """A folder in `run_folder` for a lab that those share who want one of that `kind`."""
    import hashlib

    name = hashlib.sha256(kind.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return _private(run_folder() / f"shared-{name}")


def _absolute(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(name, "")
    return Path(value) if os.path.isabs(value) else None  # noqa: PTH117


def _home(environment: Mapping[str, str]) -> Path:
    """The user's home folder: HOME, or what the system's list of users says."""
    home = _absolute(environment, "HOME")
    if home is not None:
        return home
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError as error:
        raise HostLacksError(
            "find the user's home folder",
            f"HOME is not set, and user {os.getuid()} has no name",
            "set HOME or XDG_CACHE_HOME",
        ) from error


def _private(path: Path) -> Path:
    """`path`, made if missing. Raises `OSError`; `HostLacksError` where it is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.stat()
    if state.st_uid != os.geteuid():
        raise HostLacksError(f"use {path}", "it belongs to somebody else", "remove it")
    if stat.S_IMODE(state.st_mode) & 0o077:
        path.chmod(0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied")
    return path
