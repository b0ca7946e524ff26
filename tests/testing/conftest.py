# SPDX-License-Identifier: MIT
"""Fixtures of the tests of boot tests."""

from __future__ import annotations

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.image_file import guest_image
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.session.marks import axes_of

NEEDS = {
    HostName.KVM: ("kvm",),
    HostName.LAB: ("lab",),
    HostName.QEMU_TCG: ("qemu",),
    HostName.QEMU_KVM: ("qemu", "kvm"),
}
"""Marks of this suite, by the host that a test is for."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that run on several hosts with what each of them needs."""
    for item in items:
        axes = axes_of(item)
        for mark in () if axes is None else NEEDS.get(axes.host, ()):
            item.add_marker(mark)


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
def pytester(
    _everything_loaded: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """As pytest's, for runs that boot guests.

    pytest-trio is there where it is asked for: with an old Hypothesis its import warns.
    """
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:trio")
    return pytester
