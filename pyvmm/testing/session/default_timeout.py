# SPDX-License-Identifier: MIT
"""Time limit of the boots of a test that do not say theirs: the option's, or pytest-timeout's.

pytest-timeout ends a test in its own ways: by a signal in the middle of whatever the test waits in,
or by ending the process. A boot that ends before that says what it waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

import pytest

OPTION = "pyvmm_timeout"
TEST_BEGAN = pytest.StashKey[float]()
"""Beginning of an item's protocol, by `time.monotonic`: pytest-timeout counts from there on."""
CALL_BEGAN = pytest.StashKey[float]()
"""Beginning of its function: pytest-timeout counts from there where it has `func_only`."""
_SPARED = 0.1
"""Share of pytest-timeout's limit that is left to the test when a boot ends."""


def default_timeout(item: pytest.Item) -> float | None:
    """Seconds that a boot may take which begins now; None where nobody says it."""
    said = item.config.getoption(OPTION)
    outer = _outer(item)
    if outer is None:
        return said if said is None else float(said)
    now = monotonic()
    left = outer - (now - item.stash.get(CALL_BEGAN if _is_func_only(item) else TEST_BEGAN, now))
    share = max(left - outer * _SPARED, left / 2, outer / 1000)
    return share if said is None else min(float(said), share)


def _is_func_only(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("timeout")
    if mark is not None:
        said = (*mark.args[2:], mark.kwargs.get("func_only"))[0]
        if said is not None:
            return bool(said)
    return bool(item.config.getini("timeout_func_only"))


def _outer(item: pytest.Item) -> float | None:
    """Limit of pytest-timeout for the test, in seconds; 0 is none there."""
    if not any(map(item.config.pluginmanager.hasplugin, ("timeout", "pytest_timeout"))):
        return None
    mark = item.get_closest_marker("timeout")
    sources: tuple[Callable[[], object], ...] = (
        lambda: None if mark is None else (*mark.args, mark.kwargs.get("timeout"))[0],
        lambda: item.config.getoption("timeout", None),
        lambda: os.environ.get("PYTEST_TIMEOUT"),
        lambda: item.config.getini("timeout"),
    )
    for source in sources:
        said = source()
        if said not in (None, ""):
            try:
                seconds = float(str(said))
            except ValueError:  # It says so by itself.
                return None
            return seconds if seconds > 0 else None
    return None
