# SPDX-License-Identifier: MIT
"""Wires whose frames are written to a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pyvmm.machine.console.output_file import OutputFile
from pyvmm.net.capture import CaptureFile, CaptureWire
from pyvmm.net.frames import Wire


def captured(path: Path, stack: ExitStack, opened: Callable[[], Wire]) -> CaptureWire:
    """Have the frames of the wire that `opened` gives written to `path` too; `stack` closes it.

    Raises what `OutputFile` and `opened` raise, and `UsageError` for a file that another capture
    goes to. The file is emptied when there is a wire.
    """
    file = stack.enter_context(OutputFile(path, f"write a capture to {path}"))
    file.take_alone()
    wire = opened()
    return CaptureWire(wire, CaptureFile(file.use()))
