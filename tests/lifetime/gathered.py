# SPDX-License-Identifier: MIT
"""Evidence that several tests look at: an exploration of the standard universe takes seconds."""

from __future__ import annotations

from pyvmm.lifetime.evidence import Evidence
from pyvmm.lifetime.universe import SMALL

WHOLE = Evidence()
"""What the write-up rests on."""
LITTLE = WHOLE.beside(SMALL, (1, 2))
