# SPDX-License-Identifier: MIT
"""Fixtures of the tests of boot tests."""

from __future__ import annotations

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.image_file import guest_image


@pytest.fixture(scope="session")
def _everything_loaded() -> None:
    """Have both hosts loaded, for good: pytester forgets what a run inside of this process loads.

    Unicorn can be loaded once only.
    """
    for host in (HostChoice.MODEL, HostChoice.KVM):
        try:
            run(MachineConfig(guest_image("hello"), host=host))
        except (HostLacksError, NoPermissionError):
            assert host is HostChoice.KVM


@pytest.fixture
def pytester(_everything_loaded: None, pytester: pytest.Pytester) -> pytest.Pytester:
    """As pytest's, for runs that boot guests."""
    return pytester
