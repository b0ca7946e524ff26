# SPDX-License-Identifier: MIT
"""Names of signals, for people."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Name a signal as C does, such as ``SIGKILL``; by its number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # Only the first and the last real-time signal have names.
        return f"signal {number}"
