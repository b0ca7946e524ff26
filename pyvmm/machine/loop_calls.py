# SPDX-License-Identifier: MIT
"""Calls into the trio thread of what other threads, and through them guests, ask for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio


def call_soon(token: trio.lowlevel.TrioToken | None, function: Callable[[], None]) -> None:
    """Have `function` called in the trio thread, from any thread: without its being waited for.

    It is called once, however often it is asked for until then, so that no guest makes the loop's
    queue grow; functions are told apart by ``==``. It is not called where there is no loop yet
    (None) or any more.
    """
    if token is not None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(function, idempotent=True)
