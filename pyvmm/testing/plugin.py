# SPDX-License-Identifier: MIT
"""The pytest plugin, loaded by its entry point: fixtures that boot guests.

Every pytest run in this environment loads it: nothing is imported here but pytest, and the rest by
the first test that asks for a boot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyvmm.machine.loop_thread import LoopThread
    from pyvmm.testing.async_boots import AsyncBoots
    from pyvmm.testing.boots import Boots
    from pyvmm.testing.saved_boots import AsyncBooted, Booted, SavedBoots


pytest_plugins = ("pyvmm.testing.collecting",)


@pytest.fixture(scope="session")
def _pyvmm_loop(pytestconfig: pytest.Config) -> LoopThread:
    from pyvmm.testing.session_loop import session_loop

    return session_loop(pytestconfig)


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


@pytest.fixture(scope="session")
def _pyvmm_saved_boots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SavedBoots]:
    from pyvmm.testing.saved_boots import SavedBoots

    base = tmp_path_factory.getbasetemp()
    # A worker of pytest-xdist has a folder in the one that all of them share.
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with SavedBoots(shared / "pyvmm-saved-boots") as saved:
        yield saved


@pytest.fixture
def booted(
    request: pytest.FixtureRequest, _pyvmm_loop: LoopThread, _pyvmm_saved_boots: SavedBoots
) -> Iterator[Booted]:
    """Start behind a boot: ``with booted("echo", until="ready") as vm:``.

    The session boots such a guest once, and restores it for each test. Clones of one boot share
    whatever randomness their guest had collected.
    """
    from pyvmm.testing.saved_boots import Booted

    booted = Booted(_pyvmm_loop, _pyvmm_saved_boots, _teller(request.node))
    try:
        yield booted
    finally:
        booted.close()


@pytest.fixture
def async_booted(
    request: pytest.FixtureRequest, _pyvmm_saved_boots: SavedBoots
) -> Iterator[AsyncBooted]:
    """Start behind a boot in a trio test: ``async with async_booted("echo", until=...) as vm:``."""
    from pyvmm.testing.saved_boots import AsyncBooted

    booted = AsyncBooted(_pyvmm_saved_boots, _teller(request.node))
    try:
        yield booted
    finally:
        booted.close()


def _teller(item: pytest.Item) -> Callable[[str], None]:
    """Function that adds a line to a test's report."""
    return lambda line: item.add_report_section("call", "boot", line + "\n")


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
