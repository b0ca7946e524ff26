# SPDX-License-Identifier: MIT
"""Time limit of the boots of a test that do not say theirs: the option's, or pytest-timeout's.

pytest-timeout ends a test in its own ways: by a signal in the middle of whatever the test waits in,
or by ending the process. A boot that ends before that says what it waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

OPTION = "pyvmm_timeout"
_SHARE = 0.9
"""Share of pytest-timeout's limit that a boot takes at the most."""


def default_timeout(item: pytest.Item) -> float | None:
    """Seconds; None where nobody says it."""
    said = item.config.getoption(OPTION)
    outer = _outer(item)
    if outer is None:
        return said if said is None else float(said)
    share = outer * _SHARE
    return share if said is None else min(float(said), share)


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
