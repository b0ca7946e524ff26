# SPDX-License-Identifier: MIT
"""A stage's process that is started before its reader's side is loaded, so that both load at once.

Imports little, for that reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from pyvmm.hosts.owner import Owner

if TYPE_CHECKING:
    from pyvmm.demo.house.client import Patience, StageClient

PROCESS = (sys.executable, "-m", "pyvmm.demo.house.process")


class EarlyProcess(Owner):
    """A process of stages that waits for its reader's side. Closing ends it, if nobody took it.

    Used on the thread that made it, with which it ends.
    """

    def __init__(self) -> None:
        """Start it; where that fails there is none, and whoever needs one learns why."""
        self._started: tuple[subprocess.Popen[bytes], int] | None = None
        with suppress(OSError):
            self._started = _started()

    @asynccontextmanager
    async def process(self, patience: Patience) -> AsyncIterator[StageClient]:
        """This process the first time, and a new one each other time: as `local_process`."""
        from pyvmm.demo.house.local import local_process

        taken, self._started = self._started, None
        async with local_process(patience, started=taken) as client:
            yield client

    def close(self) -> None:
        """End it; a second call does nothing."""
        if self._started is not None:
            process, to_process = self._started
            self._started = None
            os.close(to_process)
            process.kill()
            process.communicate()


def _started() -> tuple[subprocess.Popen[bytes], int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            PROCESS,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, writing
