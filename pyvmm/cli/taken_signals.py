# SPDX-License-Identifier: MIT
"""Signals as trio takes them, also where there are none to take."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio


@contextmanager
def taken_signals(*numbers: int) -> Iterator[AsyncIterator[int]]:
    """Take `numbers` inside of the block, which gets them one by one; none are none for ever.

    A process that was started with all of them ignored (nohup, and a shell's ``command &``) has
    none; `trio.open_signal_receiver` takes that for a mistake.
    """
    if not numbers:
        yield _none()
        return
    with trio.open_signal_receiver(*numbers) as received:
        yield received


async def _none() -> AsyncIterator[int]:
    await trio.Event().wait()
    yield 0
