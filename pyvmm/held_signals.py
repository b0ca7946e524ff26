# SPDX-License-Identifier: MIT
"""A moment in which nobody is interrupted: the start of a child that has to be ended later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def held_signals() -> Iterator[None]:
    """Have the handlers of SIGINT, SIGTERM and SIGHUP run at the end of the block only.

    Whoever is interrupted inside of `subprocess.Popen` has a child and no object for it. What is
    no handler of Python's stays as it is; a child gets none of this (execve(2)). Outside of the
    main thread nothing is held: handlers do not run there.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _INTERRUPTING:
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)
