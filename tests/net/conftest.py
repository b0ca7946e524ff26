# SPDX-License-Identifier: MIT
"""Network namespaces for tests: what is made in one goes with it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyvmm.net.namespaces import new_namespace


@pytest.fixture
def netns() -> Iterator[int]:
    """A namespace of the test's own, as a descriptor. No thread of this process is in it."""
    fd = new_namespace()
    yield fd
    os.close(fd)
