# SPDX-License-Identifier: MIT
"""Boots that a session saves once and restores for each test: the factories of `booted`.

The saved ones are files in the session's folder, which processes of pytest-xdist share: who comes
first to a boot makes it under a lock, and the others read it. A file is found by a digest of all
that the guest's state depends on: image, initrd, configuration, host, the point, pyvmm's version.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import trio

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.machine.loop_thread import LoopThread
from pyvmm.testing.async_boots import AsyncBoot, AsyncBoots
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boot_defaults import DEFAULT_TIMEOUT
from pyvmm.testing.boots import Boot, Boots
from pyvmm.testing.drivers.driver import CannotError, Feature
from pyvmm.testing.explaining.witness import Witness
from pyvmm.testing.failures import is_told
from pyvmm.testing.patterns import Patterns
from pyvmm.testing.request import (
    BootArguments,
    BootRequest,
    Defaults,
    make_request,
    merged,
)
from pyvmm.testing.saved_boot import SavedBoot
from pyvmm.testing.saved_boot_key import key_of, name_of
from pyvmm.testing.vm import AsyncVm, save_boot

__tracebackhide__ = is_told

Point: TypeAlias = Patterns | Callable[[Vm], object]
"""Point of a boot: behind what the guest says, or where a function of a test's leaves it."""
AsyncPoint: TypeAlias = Patterns | Callable[[AsyncVm], Awaitable[object]]
Tell: TypeAlias = Callable[[str], None]

_PAUSE = 0.02
"""Seconds between two tries to get a lock in a trio task, which another process holds."""


class SavedBoots(Owner):
    """Saved boots of a session, from the first that is asked for on; one process' view of them.

    `folder` is the same for all processes of a session, and gone once all have closed theirs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._using: int | None = None
        self._known: dict[str, SavedBoot] = {}
        self._failed: dict[str, Exception] = {}

    def known(self, key: str) -> SavedBoot | None:
        """A boot that this process has by now. Raises what making it has raised."""
        if key in self._failed:
            failure = self._failed[key]
            raise failure.with_traceback(None) from failure.__cause__
        return self._known.get(key)

    @contextmanager
    def lock(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Inside of it no other process makes that boot; False: one does, and this did not wait."""
        self._use()
        fd = os.open(self._folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def read(self, key: str) -> SavedBoot | None:
        """The boot that some process has made; under its lock. None: nobody has."""
        path = self._path(key)
        if path.exists():
            self._known[key] = SavedBoot.from_file(path)
        return self._known.get(key)

    def keep(self, key: str, boot: SavedBoot) -> SavedBoot:
        """Keep what was made, for all; under its lock."""
        boot.to_file(self._path(key))
        self._known[key] = boot
        return boot

    def keep_failure(self, key: str, failure: Exception) -> None:
        """Let every other test of this process fail as this one: it would do no better."""
        self._failed[key] = failure

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.saved"

    def _use(self) -> None:
        """Have the folder stay."""
        while self._using is None:
            fd = self._opened()
            if fd is None:
                continue
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink:  # Else the last one removed it meanwhile.
                self._using = fd
            else:
                os.close(fd)

    def _opened(self) -> int | None:
        """Make and open the folder; None where the last one removed it meanwhile."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except FileExistsError:
            # mkdir looks again where something is there: it may be gone by then.
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR(self._folder.lstat().st_mode):
                    raise
            return None

    def close(self) -> None:
        """Give up what is known; the last process removes the folder."""
        self._known.clear()
        fd, self._using = self._using, None
        if fd is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
            finally:
                os.close(fd)


def _require_saveable(request: BootRequest) -> None:
    """Raise `CannotError` before anything is booted that cannot be saved."""
    if request.private:
        reason = "the host cannot read private memory"
        raise CannotError(request.host, Feature.SAVING, reason)


def _told(request: BootRequest, until: Any, boot: SavedBoot, how: str) -> str:
    where = name_of(until)
    return f"{how}: {request.name} on {boot.host}, {boot.seconds:.3f} s behind its boot, at {where}"


def _limit(said: BootArguments, defaults: Defaults | None) -> float:
    return merged(said, defaults).get("timeout", DEFAULT_TIMEOUT)


def _without_cards(request: BootRequest) -> BootRequest:
    """Return it. Raises `UsageError` for one with network cards, whose networks end with a test."""
    if request.net:
        raise UsageError(
            f"start {request.name} behind a boot, with a network",
            "a guest with a card is one network's, and a saved boot is all tests'",
            "boot it in the test, and keep it with vm.save() there",
        )
    return request


class WarmBoot(Boot):
    """A boot to be that goes on from a saved one; who is first makes that."""

    def __init__(
        self,
        loop: LoopThread,
        request: BootRequest,
        saved: SavedBoots,
        until: Point,
        *,
        tell: Tell,
        witness: Witness | None = None,
        limit: Callable[[], float],
    ) -> None:
        """`limit`: seconds that the guest may take which goes on now."""
        super().__init__(loop, request, witness)
        self._saved = saved
        self._until = until
        self._tell = tell
        self._limit = limit
        self._key = key_of(request, until)

    def __enter__(self) -> Vm:
        _require_saveable(self.request)
        boot = self._saved.known(self._key)
        how = "restored"
        if boot is None:
            with self._saved.lock(self._key):
                boot = self._saved.read(self._key)
                if boot is None:
                    how = "booted"
                    boot = self._saved.keep(self._key, self._made())
        self._tell(_told(self.request, self._until, boot, how))
        self.request = replace(self.request, saved=boot, timeout=self._limit())
        return super().__enter__()

    def _made(self) -> SavedBoot:
        with Boot(self._loop, replace(self.request, paused=False), self._witness) as vm:
            try:
                if callable(self._until):
                    self._until(vm)
                else:
                    vm.console.expect(self._until)
                return vm._task.call(partial(save_boot, vm._inner))
            except (AssertionError, PyvmmError) as failure:
                self._saved.keep_failure(self._key, failure)
                raise


class Booted(Boots):
    """Factory of warm boots: ``with booted("echo", until="ready") as vm:``."""

    def __init__(
        self,
        loop: LoopThread,
        saved: SavedBoots,
        tell: Tell,
        defaults: Defaults | None = None,
        *,
        witness: Witness | None = None,
    ) -> None:
        super().__init__(loop, defaults, witness)
        self._saved = saved
        self._tell = tell

    def __call__(  # type: ignore[override]
        self,
        image: str | os.PathLike[str] | bytes,
        *,
        until: Point,
        **arguments: Unpack[BootArguments],
    ) -> WarmBoot:
        """A boot that goes on behind `until`; the other arguments are `boot`'s.

        `until` is a pattern, or several, that the guest says (`Console.expect`), or a function that
        brings the guest to the point. Raises as `boot`, and as reaching the point does.
        """
        request = _without_cards(make_request(image, **merged(arguments, self._defaults)))
        return self._keep(
            WarmBoot(
                self._loop,
                request,
                self._saved,
                until,
                tell=self._tell,
                witness=self._witness,
                limit=partial(_limit, arguments, self._defaults),
            )
        )


class AsyncWarmBoot(AsyncBoot):
    """A warm boot to be, in the loop of an asynchronous test."""

    def __init__(
        self,
        request: BootRequest,
        saved: SavedBoots,
        until: AsyncPoint,
        *,
        tell: Tell,
        witness: Witness | None = None,
        limit: Callable[[], float],
    ) -> None:
        """`limit`: seconds that the guest may take which goes on now."""
        super().__init__(request, witness)
        self._saved = saved
        self._until = until
        self._tell = tell
        self._limit = limit
        self._key = key_of(request, until)

    async def __aenter__(self) -> AsyncVm:
        _require_saveable(self.request)
        boot = self._saved.known(self._key)
        how = "restored"
        while boot is None:
            with self._saved.lock(self._key, wait=False) as locked:
                boot = self._saved.read(self._key) if locked else None
                if locked and boot is None:
                    how = "booted"
                    boot = self._saved.keep(self._key, await self._reached())
            if boot is None:
                await trio.sleep(_PAUSE)
        self._tell(_told(self.request, self._until, boot, how))
        self.request = replace(self.request, saved=boot, timeout=self._limit())
        return await super().__aenter__()

    async def _reached(self) -> SavedBoot:
        async with AsyncBoot(replace(self.request, paused=False), self._witness) as vm:
            try:
                if callable(self._until):
                    await self._until(vm)
                else:
                    await vm.console.expect(self._until)
                return await save_boot(vm)
            except (AssertionError, PyvmmError) as failure:
                self._saved.keep_failure(self._key, failure)
                raise


class AsyncBooted(AsyncBoots):
    """Factory of warm boots in a trio test's loop: ``async with async_booted(...) as vm:``."""

    def __init__(
        self,
        saved: SavedBoots,
        tell: Tell,
        defaults: Defaults | None = None,
        *,
        witness: Witness | None = None,
    ) -> None:
        super().__init__(defaults, witness)
        self._saved = saved
        self._tell = tell

    def __call__(  # type: ignore[override]
        self,
        image: str | os.PathLike[str] | bytes,
        *,
        until: AsyncPoint,
        **arguments: Unpack[BootArguments],
    ) -> AsyncWarmBoot:
        """A boot that goes on behind `until`, as `Booted` has it; a function is a coroutine's."""
        request = _without_cards(make_request(image, **merged(arguments, self._defaults)))
        return self._keep(
            AsyncWarmBoot(
                request,
                self._saved,
                until,
                tell=self._tell,
                witness=self._witness,
                limit=partial(_limit, arguments, self._defaults),
            )
        )
