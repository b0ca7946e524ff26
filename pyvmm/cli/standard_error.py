# SPDX-License-Identifier: MIT
"""Standard error: what the command itself says, never the guest."""

from __future__ import annotations

import sys
from contextlib import suppress


def write_to_user(text: str) -> None:
    """Show `text`. Where nobody can read it any more the exit code has to say it all."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
