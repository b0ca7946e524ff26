# SPDX-License-Identifier: MIT
"""State of a machine under QEMU: its devices as a migration stream, and its RAM as a file has it.

The RAM is a file that QEMU shares with us, so the migration leaves it out (x-ignore-shared, QEMU
``docs/devel/migration.rst``) and we copy what of it is not a hole.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from pyvmm.compare.subjects import QemuSubject
from pyvmm.errors import ExitCode, PyvmmError, SystemCallError, UsageError

Ask = Callable[[str, Mapping[str, object]], Awaitable[Any]]
"""Sends a QMP command: its name and arguments."""
_LOOK_EVERY = 0.002
_GIVE_UP_PATIENCE = 10.0
_OVER = frozenset({None, "none", "completed", "cancelled", "failed"})
"""States of a migration (QMP's MigrationStatus) in which nothing more becomes of it."""
_CHUNK = 1 << 20


class MigrationFailedError(PyvmmError):
    """QEMU could not save or restore the state of its devices."""

    exit_code = ExitCode.SYSTEM_CALL


@dataclass(frozen=True, slots=True)
class QemuSaved:
    """Saved state, for a machine of the same `subject`, `memory` (bytes) and `cpus`.

    `running`: it ran, and goes on when it is restored. `ram` is (file offset, content). `said`: the
    bytes that it had said by then.
    """

    subject: QemuSubject
    memory: int
    cpus: int
    running: bool
    said: int
    devices: bytes = field(repr=False)
    ram: tuple[tuple[int, bytes], ...] = field(repr=False)


async def save_devices(ask: Ask, file: int) -> bytes:
    """Have a stopped QEMU write its devices' state to the empty file `file`, and read that."""
    await _leave_ram_out(ask)
    try:
        await ask("migrate", {"uri": f"exec:cat >/proc/{os.getpid()}/fd/{file}"})
        await _until_done(ask, "save the machine under QEMU")
    except BaseException:
        await _give_up(ask)
        raise
    return os.pread(file, os.fstat(file).st_size, 0)


async def load_devices(ask: Ask, file: int) -> None:
    """Have a QEMU that waits for a migration take the devices' state from the file `file`."""
    await _leave_ram_out(ask)
    await ask("migrate-incoming", {"uri": f"exec:cat /proc/{os.getpid()}/fd/{file}"})
    await _until_done(ask, "restore the machine under QEMU")


async def _give_up(ask: Ask) -> None:
    """Cancel a migration, and wait for its end: until then QEMU does not let the guest run."""
    with trio.CancelScope(deadline=trio.current_time() + _GIVE_UP_PATIENCE, shield=True):
        with suppress(PyvmmError):
            await ask("migrate_cancel", {})
            while True:
                answer = await ask("query-migrate", {})
                if answer.get("status") in _OVER:
                    return
                await trio.sleep(_LOOK_EVERY)


async def _leave_ram_out(ask: Ask) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    await ask("migrate-set-capabilities", {"capabilities": [capability]})


async def _until_done(ask: Ask, attempt: str) -> None:
    while True:
        answer = await ask("query-migrate", {})
        status = answer.get("status")
        if status == "completed":
            return
        if status in {"failed", "cancelled"}:
            raise MigrationFailedError(attempt, str(answer.get("error-desc") or f"it {status}"))
        await trio.sleep(_LOOK_EVERY)


def contents_of(file: int) -> tuple[tuple[int, bytes], ...]:
    """(offset, content) of all that is no hole in `file`, ascending."""
    size = os.fstat(file).st_size
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole from here on.
            break
        at = os.lseek(file, start, os.SEEK_HOLE)
        for piece in range(start, at, _CHUNK):
            data = os.pread(file, min(_CHUNK, at - piece), piece)
            if data.strip(b"\0"):
                found.append((piece, data))
    return tuple(found)


def fill_ram(file: int, saved: QemuSaved) -> None:
    """Write the RAM of `saved` into `file`. Raises as `fill`, and `UsageError` for what is none."""
    for offset, content in saved.ram:
        if not 0 <= offset <= saved.memory - len(content):
            raise UsageError("restore the guest", f"its state has RAM at offset {offset:#x}")
    fill(file, saved.ram)


def fill(file: int, contents: tuple[tuple[int, bytes], ...]) -> None:
    """Write what `contents_of` gave into `file`. Raises `SystemCallError` for want of memory."""
    try:
        for offset, content in contents:
            done = 0
            while done < len(content):
                done += os.pwrite(file, content[done:], offset + done)
    except OSError as error:
        raise SystemCallError(
            "fill the guest's RAM", error.errno or 0, error.strerror or ""
        ) from error


QEMU_KINDS = (QemuSaved, QemuSubject)
"""Kinds that a file with such a state has."""
