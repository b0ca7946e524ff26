# SPDX-License-Identifier: MIT
"""Fixtures of all tests of comparisons."""

from __future__ import annotations

import pytest

from pyvmm.compare import choosing
from pyvmm.qmp.accelerators import Accelerators

_KNOWN = Accelerators()


@pytest.fixture(autouse=True)
def _qemus_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would be probed anew for each comparison in this process."""
    monkeypatch.setattr(choosing, "Accelerators", lambda: _KNOWN)
