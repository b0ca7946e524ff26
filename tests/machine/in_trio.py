# SPDX-License-Identifier: MIT
"""Tests that are coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import trio

HANG = 240.0
"""Seconds after which something that should be instant counts as hung."""

P = ParamSpec("P")


def in_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make the coroutine `test` a test."""

    @wraps(test)
    def run(*arguments: P.args, **more: P.kwargs) -> None:
        async def bounded() -> None:
            with trio.fail_after(HANG):
                await test(*arguments, **more)

        trio.run(bounded)

    return run
