# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from .wired_port import WiredPort


@pytest.fixture
def port() -> WiredPort:
    return WiredPort()
