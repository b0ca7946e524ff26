# SPDX-License-Identifier: MIT
"""Witness of a test's guests: what is kept of each, so that a failure can be explained afterwards.

A guest is looked at while it is still there: when its block is left by an exception, when it has
failed by itself, or when its test has failed and it still runs. That is bounded (`PATIENCE`), and
what cannot be had is left out with a line that says so.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from pyvmm.errors import PyvmmError
from pyvmm.testing.drivers.driver import CannotError, VcpuState
from pyvmm.testing.failures import unforeseen
from pyvmm.testing.life import Life

if TYPE_CHECKING:
    from pyvmm.testing.network.recordings import Recording

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that looking at a guest takes at the most."""
CORE_PATIENCE = 60.0
"""Seconds that writing its core takes at the most."""

_UNSEEN = ("private", "withheld")
CorePath = Callable[[], Path | None]


@dataclass
class Remains:
    """Remains of one guest: all that an explanation is made of."""

    life: Life
    vcpus: Sequence[VcpuState] = ()
    memory: Sequence[tuple[int, int, str]] = ()
    remarks: list[str] = field(default_factory=list)
    core: Path | None = None
    booted: float = field(default_factory=trio.current_time)
    seconds: float = 0.0
    """From the boot to when it was looked at."""
    is_examined: bool = False

    def forget(self) -> None:
        """Let it be looked at once more."""
        self.vcpus = self.memory = ()
        self.remarks.clear()
        self.core = None
        self.is_examined = False


class Witness:
    """Witness of one test. In the loops of its guests, but for `guests`."""

    def __init__(
        self, core_path: CorePath | None = None, *, always: bool = False, shared: bool = False
    ) -> None:
        """`core_path` gives a new file's path for each core; without it there are none.

        `always`: guests are looked at even where nothing has failed. `shared`: it is that of many
        tests, and does not keep what is gone.
        """
        self._is_shared = shared
        self.guests: list[Remains] = []
        self.still_open: list[Callable[[], None]] = []
        """Have it look at the guests whose blocks may not have been left; any thread but theirs."""
        self.always = always
        self.has_failed_results = False
        """Results that a guest gave have failed, which the test as such has not."""
        self.core_path = core_path
        self.recordings: list[Recording] = []
        """Frames of the test's networks, where there are artifacts."""

    def meet(self, life: Life) -> Remains:
        """Take note of a guest that has been booted."""
        if self._is_shared:
            self.guests = [one for one in self.guests if not one.life.is_closed]
        remains = Remains(life)
        self.guests.append(remains)
        return remains

    def cares(self, failure: BaseException | None) -> bool:
        """Tell whether a block that is left by `failure` (None: by nothing) is worth a look.

        What only ends the run, or skips a test, is not.
        """
        if failure is None:
            return self.always or self.has_failed_results
        if isinstance(failure, (KeyboardInterrupt, SystemExit, GeneratorExit, CannotError)):
            return False
        return type(failure).__name__ != "Skipped"  # pytest's, which is not imported here.

    async def look_at_end(self, remains: Remains) -> None:
        """Keep what costs nothing of a guest that has ended badly, which may be what was meant."""
        outcome = remains.life.outcome
        if outcome is not None and outcome.status != 0 and not remains.is_examined:
            remains.vcpus = (
                await _tried(remains, "its vCPUs", remains.life.driver.vcpu_states) or ()
            )

    async def examine(self, remains: Remains) -> None:
        """Look at a guest that is still there; once. Not cancellable, but bounded; never raises."""
        if remains.is_examined:
            return
        remains.is_examined = True
        remains.seconds = trio.current_time() - remains.booted
        with trio.CancelScope(shield=True):
            with trio.move_on_after(PATIENCE) as scope:
                await self._look(remains)
            if scope.cancelled_caught:
                remains.remarks.append(f"its state could not be had within {PATIENCE:g} s")
            elif self.core_path is not None:
                path = await _tried(remains, "its core's path", self._new_core_path)
                if path is not None:
                    await self._write_core(remains, path)

    async def _new_core_path(self) -> Path | None:
        return None if self.core_path is None else self.core_path()

    async def _look(self, remains: Remains) -> None:
        driver = remains.life.driver
        remains.vcpus = await _tried(remains, "its vCPUs", driver.vcpu_states) or ()

        async def page_states() -> Sequence[tuple[int, int, str]]:
            try:
                return await driver.page_states()
            except CannotError:
                return [(gpa, size, "RAM") for gpa, size in driver.memory_ranges()]

        remains.memory = await _tried(remains, "its page states", page_states) or ()

    async def _write_core(self, remains: Remains, path: Path) -> None:
        async def write() -> bool:
            await remains.life.driver.core(str(path))
            return True

        with trio.move_on_after(CORE_PATIENCE) as scope:
            if await _tried(remains, "its core", write):
                remains.core = path
                unseen = sum(size for _gpa, size, state in remains.memory if state in _UNSEEN)
                if unseen:
                    remains.remarks.append(
                        f"its core has no contents of {unseen >> 10} KiB that the host does not see"
                    )
        if scope.cancelled_caught:
            remains.remarks.append(f"its core could not be written within {CORE_PATIENCE:g} s")
        if remains.core is None:
            _remove_part(path)


def _remove_part(path: Path) -> None:
    """Remove what there is of a core that has not become one."""
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


async def _tried(remains: Remains, what: str, function: Callable[[], Awaitable[T]]) -> T | None:
    """Await `function()`; what goes wrong becomes a remark."""
    try:
        return await function()
    except CannotError as failure:
        remains.remarks.append(f"{what}: {failure.reason}")
    except (PyvmmError, OSError) as failure:
        remains.remarks.append(f"{what}: {failure}")
    except Exception as error:  # noqa: BLE001 - it must not take the place of the test's failure
        remains.remarks.append(f"{what}: {unforeseen(f'look at {what}', error)}")
    return None
