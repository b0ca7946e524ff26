# SPDX-License-Identifier: MIT
"""A stage's process that is started before its reader's side is loaded, so that both load at once.

Imports little, for that reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

from pyvmm.hosts.owner import Owner

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

    def take(self) -> tuple[subprocess.Popen[bytes], int] | None:
        """Give it away, with what writes to its input; None if there is none, or no more."""
        taken, self._started = self._started, None
        return taken

    def close(self) -> None:
        """End it; a second call does nothing."""
        taken = self.take()
        if taken is not None:
            process, to_process = taken
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
