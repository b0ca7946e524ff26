# SPDX-License-Identifier: MIT
"""Puts another thread's call between two steps of a function, in every place there is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


def call_with_another_at(step: int, code: CodeType, action: Callable[[], Any], other: Any) -> None:
    """Call `action`, and `other` before the bytecode instruction `step` of `code`, run in it."""
    left = step

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                other()  # not traced
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
