# SPDX-License-Identifier: MIT
"""A thread that looks every now and then whether an engine should stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PERIOD = 0.002
"""Seconds between two looks: how long a kick, a vCPU that waits, or a timer may go unnoticed."""
PERIOD_WHEN_WANTED = 0.0005
"""The same, right after a look that found something."""


class Watch:
    """While it is `on`, calls `stop` as long as `wanted` says so. It may be needed more than once:
    a stop that comes before the engine has really started is lost."""

    def __init__(self, wanted: Callable[[], bool], stop: Callable[[], None], name: str) -> None:
        self._wanted = wanted
        self._stop = stop
        self._name = name
        self._on = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False

    def on(self) -> None:
        """From now on. Raises `RuntimeError` where the system has no thread to give."""
        if self._thread is None:
            thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._on.set()

    def off(self) -> None:
        """No longer."""
        self._on.clear()

    @staticmethod
    def pause() -> None:
        """Let a moment pass."""
        time.sleep(PERIOD)

    def _main(self) -> None:
        period = PERIOD
        while True:
            self._on.wait()
            if self._ending:
                return
            time.sleep(period)
            period = PERIOD
            if self._on.is_set() and self._wanted():
                self._stop()
                period = PERIOD_WHEN_WANTED

    def close(self) -> None:
        """End the thread; a second call does nothing."""
        self._ending = True
        self._on.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
