# SPDX-License-Identifier: MIT
"""Failures of backends are a run's, and what is told of them is what has failed."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest
import trio

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.machine.background import serve_backend
from pyvmm.machine.control import RunControl

FAILED = SystemCallError("serve a card", errno.EINVAL, "Invalid argument", "give vhost=off")
LACKS = HostLacksError("serve a card", "there is nothing to do it")
DEFECT = ZeroDivisionError("a defect")
BOTH = ExceptionGroup("tasks", [FAILED, DEFECT])


class Control:
    """Of a run: what made it fail."""

    failure: BaseException | None = None

    def fail(self, failure: BaseException) -> None:
        self.failure = failure


class Backend:
    """Fails with all of `failures` at once, or with one that is not in a group."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = failures

    async def _fail(self, failure: Exception) -> None:
        raise failure

    async def serve(self) -> None:
        async with trio.open_nursery(strict_exception_groups=True) as outer:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                for failure in self._failures:
                    nursery.start_soon(self._fail, failure)
            outer.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([FAILED], FAILED),
        ([LACKS, LACKS], LACKS),
        ([DEFECT], DEFECT),
        ([BOTH], BOTH),
    ],
    ids=["one", "two", "a defect", "a defect beside it"],
)
def test_tasks_that_fail_are_told_of_by_what_has_failed(
    failures: list[Exception], told: Exception
) -> None:
    control = Control()
    trio.run(serve_backend, cast(RunControl, control), cast(Any, Backend(*failures)))
    if told is BOTH:
        assert isinstance(control.failure, ExceptionGroup)
        assert DEFECT in control.failure.exceptions
    else:
        assert control.failure is told


def test_a_failure_without_a_group_is_told_as_it_is() -> None:
    class Alone:
        async def serve(self) -> None:
            raise FAILED

    control = Control()
    trio.run(serve_backend, cast(RunControl, control), cast(Any, Alone()))
    assert control.failure is FAILED
