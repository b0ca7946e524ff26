# SPDX-License-Identifier: MIT
"""Wires whose frames are written to a file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pyvmm.machine.console.output_file import OutputFile
from pyvmm.net.capture import CaptureFile, CaptureWire
from pyvmm.net.frames import Wire


def captured(path: Path, stack: ExitStack, opened: Callable[[], Wire]) -> Callable[[], Wire]:
    """Open a wire by `opened`, and a file for its frames; `stack` closes the file.

    What is given empties the file, and gives the wire with its capture. Raises what `OutputFile`
    and `opened` raise, and `UsageError` for a file that another capture goes to.
    """
    file = stack.enter_context(OutputFile(path, f"write a capture to {path}"))
    file.take_alone()
    wire = opened()
    return lambda: CaptureWire(wire, CaptureFile(file.use()))
