# SPDX-License-Identifier: MIT
"""The pytest plugin, loaded by its entry point: fixtures that boot guests.

Every pytest run in this environment loads it: nothing is imported here but pytest, and the rest by
the first test that asks for a boot.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyvmm.machine.loop_thread import LoopThread
    from pyvmm.testing.async_boots import AsyncBoots
    from pyvmm.testing.boots import Boots


@pytest.fixture(scope="session")
def _pyvmm_loop() -> Iterator[LoopThread]:
    from pyvmm.machine.loop_thread import LoopThread

    with LoopThread("boots") as loop:
        yield loop


@pytest.fixture
def boot(_pyvmm_loop: LoopThread) -> Iterator[Boots]:
    """Boot guests: ``with boot("exit", append="9") as vm:``. Gone when the test is over."""
    from pyvmm.testing.boots import Boots

    boots = Boots(_pyvmm_loop)
    try:
        yield boots
    finally:
        boots.close()


@pytest.fixture
def async_boot() -> Iterator[AsyncBoots]:
    """Boot guests in a trio test: ``async with async_boot("exit", append="9") as vm:``."""
    from pyvmm.testing.async_boots import AsyncBoots

    boots = AsyncBoots()
    try:
        yield boots
    finally:
        boots.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip a test whose fixtures ask for what its host cannot do."""
    try:
        return (yield)
    except BaseException as failure:
        _skip_if_it_cannot(failure)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that asks for what its host cannot do."""
    try:
        return (yield)
    except BaseException as failure:
        _skip_if_it_cannot(failure)
        raise


def _skip_if_it_cannot(failure: BaseException) -> None:
    """Raise pytest's skip, with the reason, where `failure` is a `CannotError` and nothing else."""
    driver = sys.modules.get("pyvmm.testing.driver")
    if driver is None:
        return
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, driver.CannotError):
        raise pytest.skip.Exception(str(failure), _use_item_location=True)
