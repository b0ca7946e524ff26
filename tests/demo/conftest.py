# SPDX-License-Identifier: MIT
"""Hosts that chapters need."""

from __future__ import annotations

from tests.machine.conftest import private_host

__all__ = ["private_host"]
