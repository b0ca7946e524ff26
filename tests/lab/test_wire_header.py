# SPDX-License-Identifier: MIT
"""Both sides of the lab's channel are compiled with the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

from pyvmm.lab import protocol
from pyvmm.lab.protocol import Fact, FrameType, StartFlag, Step, Stream

HEADER = Path(protocol.__file__).parent / "guest" / "wire.h"
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(0[xX][0-9a-fA-F]+|\d+)[ \t]*$", re.MULTILINE)

EXPECTED = {
    "WIRE_VERSION": protocol.VERSION,
    "HEADER_SIZE": protocol.HEADER_SIZE,
    "DATA_MAX": protocol.DATA_MAX,
    "PAYLOAD_MAX": protocol.PAYLOAD_MAX,
    "WINDOW": protocol.WINDOW,
    "START_FIXED_SIZE": protocol.START_FIXED_SIZE,
    "PRELOAD_GONE": 0,
    "PRELOAD_READY": 1,
    # Those above PRELOADED and FORGET are between client and keeper, which the lab never sees.
    **{f"FRAME_{kind.name}": int(kind) for kind in FrameType if kind < FrameType.STATUS},
    **{f"STREAM_{stream.name}": int(stream) for stream in Stream},
    **{f"START_{flag.name}": int(flag) for flag in StartFlag},
    **{f"FACT_{fact.name}": int(fact) for fact in Fact},
    **{f"STEP_{step.name}": int(step) for step in Step},
}


def test_both_sides_agree() -> None:
    found = {name: int(value, 0) for name, value in _DEFINE.findall(HEADER.read_text())}
    assert found == EXPECTED
