# SPDX-License-Identifier: MIT
"""Origin of the states that the model saves."""

from __future__ import annotations

from functools import cache

from pyvmm.hosts.model import unicorn_library
from pyvmm.hosts.model.saved_values import FORMAT
from pyvmm.hosts.saved_state import Origin, SavingHost


@cache
def origin() -> Origin:
    """Name this model; its processor is the emulator. Raises `HostLacksError` without Unicorn."""
    return Origin(SavingHost.MODEL, FORMAT, f"Unicorn {unicorn_library.version()}", 0)
