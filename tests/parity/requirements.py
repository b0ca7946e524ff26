# SPDX-License-Identifier: MIT
"""Hosts that must be there."""

from __future__ import annotations

import os

REQUIRED = frozenset(filter(None, os.environ.get("PYVMM_REQUIRE", "").split(",")))
"""Hosts that must be there (CI sets it): their tests fail instead of being skipped."""
