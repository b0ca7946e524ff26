# SPDX-License-Identifier: MIT
"""The system packages that building a kernel needs, and getting them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping

from pyvmm.errors import HostLacksError

TOOLS = {
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "tar": "tar",
    "xz": "xz-utils",
}
"""Commands, and Debian's names of the packages that have them."""

HEADERS = {"stdio.h": "libc6-dev", "gelf.h": "libelf-dev"}
"""C headers, likewise. objtool, which x86-64 cannot be built without, reads ELF with libelf."""

SELFTEST_HEADERS = {**HEADERS, "uuid/uuid.h": "uuid-dev"}
"""The same and what KVM selftests are linked with from Linux 7 on: libvfio has UUIDs."""

_PATIENCE = 30
_INSTALL_PATIENCE = 1800


def missing(headers: Mapping[str, str] = HEADERS) -> list[str]:
    """Debian's names of the packages that building needs and this host lacks."""
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if "gcc" in lacking:
        # Without a compiler nobody can ask for its headers.
        return [*lacking, *headers.values()]
    return lacking + [package for name, package in headers.items() if not _has_header(name)]


def ensure(say: Callable[[str], None], headers: Mapping[str, str] = HEADERS) -> None:
    """See that everything is there; as root where apt-get is, by installing it.

    Raises `HostLacksError`.
    """
    lacking = missing(headers)
    if not lacking:
        return
    attempt = "build a kernel"
    names = " ".join(lacking)
    cause = f"this host lacks (Debian's names): {names}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise HostLacksError(attempt, cause, "install them and try again")
    say(f"installing system packages: {names}")
    for command in (
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "install", "-y", "--no-install-recommends", *lacking],
    ):
        said = _apt(command)
        if said is not None:
            raise HostLacksError(attempt, f"{cause}, and {command[2]} failed: {said}")
    still = missing(headers)
    if still:
        raise HostLacksError(attempt, f"this host still lacks {' '.join(still)}", "see apt-get")


def compiler_version() -> str:
    """Ask the compiler for its version, in one line: part of what identifies a kernel.

    Raises `HostLacksError`.
    """
    try:
        done = subprocess.run(
            ["gcc", "--version"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=True,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise HostLacksError("ask gcc for its version", str(error), "install gcc") from error
    return done.stdout.splitlines()[0].strip() if done.stdout else "gcc"


def _has_header(name: str) -> bool:
    try:
        done = subprocess.run(
            ["gcc", "-E", "-x", "c", "-include", name, os.devnull, "-o", os.devnull],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _apt(command: list[str]) -> str | None:
    """Run it; None if that went well, otherwise what it said last."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=_INSTALL_PATIENCE, check=False,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    return " ".join(lines) or f"status {done.returncode}"
