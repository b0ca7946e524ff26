# SPDX-License-Identifier: MIT
"""What belongs to a whole process, and a library has to leave as its user had it."""

from __future__ import annotations

import asyncio
import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
_ASYNCIO = (
    "get_event_loop_policy", "set_event_loop_policy", "new_event_loop", "set_event_loop",
    "get_event_loop", "get_running_loop", "_get_running_loop", "_set_running_loop",
)  # fmt: skip


def process_state() -> dict[str, object]:
    """By name, each in a form that can be compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # In Python 3.14 policies are deprecated.
        policy = asyncio.get_event_loop_policy()
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "asyncio's policy": policy,
        "asyncio's functions": [
            getattr(module, name, None) for module in (asyncio, asyncio.events) for name in _ASYNCIO
        ],
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "wakeup descriptor": wakeup,
        "warnings": (list(warnings.filters), warnings.showwarning),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": Path("/proc/self/status").read_text().split("Umask:")[1].split()[0],
        "hooks": (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook),
        "asyncgen hooks": sys.get_asyncgen_hooks(),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "interpreter": (sys.getswitchinterval(), sys.getrecursionlimit(), list(sys.path)),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > 0),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.disabled),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "limits": [resource.getrlimit(limit) for limit in _LIMITS],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": os.sched_getaffinity(0),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        # Those that trio keeps for a while belong to no one.
        "threads": {one for one in threading.enumerate() if not one.name.startswith("Trio")},
    }


@contextmanager
def unchanged() -> Iterator[None]:
    """Fail with what the block has changed."""
    before = process_state()
    yield
    after = process_state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, changed
