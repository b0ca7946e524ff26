"""What every test can ask for: the hosts that are there, and a failure where one must be."""

from __future__ import annotations

import os
import shutil

import pytest

REQUIRED = frozenset(filter(None, os.environ.get("PYVMM_REQUIRE", "").split(",")))
"""Hosts that must be there (CI sets it): their tests fail instead of being skipped."""


def _missing(mark: str) -> str | None:
    if mark == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f"/dev/kvm: {error.strerror}"
    if mark == "qemu" and shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("kvm", "qemu"):
        if item.get_closest_marker(mark) is None:
            continue
        reason = _missing(mark)
        if reason is None:
            continue
        if mark in REQUIRED:
            pytest.fail(f"{mark} is required here, but {reason}")
        pytest.skip(reason)
