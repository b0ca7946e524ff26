# SPDX-License-Identifier: MIT
"""The images, built before the first test that wants one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.building import GUEST, make


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder with the images, up to date."""
    make("--silent")
    return GUEST / "build"
