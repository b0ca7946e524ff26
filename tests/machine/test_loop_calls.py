# SPDX-License-Identifier: MIT
"""Calls into the trio thread: once, however often they are asked for, and never too late."""

from __future__ import annotations

import trio
import trio.testing

from pyvmm.machine.loop_calls import call_soon


def test_a_call_is_made_once_however_often_it_is_asked_for_until_then() -> None:
    calls: list[str] = []

    def one() -> None:
        calls.append("one")

    def other() -> None:
        calls.append("other")

    async def main() -> trio.lowlevel.TrioToken:
        token = trio.lowlevel.current_trio_token()
        for _ in range(1000):
            call_soon(token, one)
            call_soon(token, other)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(calls) == ["one", "other"]
        call_soon(token, one)
        await trio.testing.wait_all_tasks_blocked()
        return token

    ended = trio.run(main)
    assert sorted(calls) == ["one", "one", "other"]
    # Nobody is left to make it, or nobody has begun.
    call_soon(ended, one)
    call_soon(None, one)
    assert len(calls) == 3
