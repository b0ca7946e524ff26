# SPDX-License-Identifier: MIT
"""Values for what nobody says of a boot, in tests and in matrices."""

from __future__ import annotations

DEFAULT_TIMEOUT = 60.0
"""Seconds from the boot on after which a guest is ended, and its test has failed."""
DEFAULT_MEMORY = 64 << 20
"""Bytes."""
