# SPDX-License-Identifier: MIT
"""Time limits: the one that comes first is named. On a clock of their own: nothing waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from pyvmm.testing.deadline import Deadline

BOOT = "within 60 s, the boot's time limit"


def at_once(test: Callable[[], Awaitable[None]]) -> None:
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("timeout", "name", "earliest"),
    [(5, "within 5 s, this call's own time limit", 5), (90, BOOT, 60), (None, BOOT, 60)],
)
def test_the_limit_that_comes_first_is_named(
    timeout: float | None, name: str, earliest: float
) -> None:
    async def test() -> None:
        deadline = Deadline(60)
        with deadline.limit(timeout) as limit:
            await trio.sleep_forever()
        assert (limit.passed, limit.name) == (True, name)
        # The monitor gets a moment to end the run by itself.
        assert earliest <= trio.current_time() <= earliest + 5

    at_once(test)


def test_a_boots_limit_is_counted_from_the_boot() -> None:
    async def test() -> None:
        deadline = Deadline(60)
        with deadline.limit(40) as limit:
            await trio.sleep(39)
        assert not limit.passed
        with deadline.limit(40) as limit:
            await trio.sleep(39)
        assert (limit.passed, limit.name) == (True, BOOT)

    at_once(test)
