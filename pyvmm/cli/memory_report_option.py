# SPDX-License-Identifier: MIT
"""``--memory-report FILE``: what memory of the host the guest took, over time."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.cli.output_paths import write_output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyvmm.machine.console.output_file import OutputFile
    from pyvmm.machine.machine import Machine
    from pyvmm.machine.memory_use import Recording


def add_memory_report_argument(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument(
        "--memory-report", type=Path, metavar="FILE",
        help="write there what memory the guest took over time: shared and private copies, pages "
        "resident twice, page tables; as text, or as FILE ends in .json or .html",
    )  # fmt: skip


class MemoryReportFile:
    """A file that a machine's recording is written to, in the form that its name asks for."""

    def __init__(self, path: Path, file: OutputFile, name: str, attempt: str) -> None:
        self._path = path
        self._file = file
        self._name = name
        self._attempt = attempt
        self._record: Recording | None = None

    @asynccontextmanager
    async def recorded(self, machine: Machine) -> AsyncIterator[None]:
        """Record `machine` inside of the block."""
        from pyvmm.machine.memory_use import recording

        async with recording(machine) as self._record:
            yield

    def write(self) -> None:
        """Write what was recorded. Raises `SystemCallError`."""
        if self._record is None:
            return
        if self._path.suffix == ".json":
            import json

            text = json.dumps(self._record.to_json(), indent=2) + "\n"
        else:
            from pyvmm.machine.memory_use_report import html_report, text_report

            is_page = self._path.suffix == ".html"
            title = f"Memory of {self._name}" if self._name else "Memory of the guest"
            text = html_report(self._record, title) if is_page else text_report(self._record)
        write_output(self._file, text, self._attempt)


def open_memory_report(path: Path | None, name: str, stack: ExitStack) -> MemoryReportFile | None:
    """Open the file, for as long as `stack`; None where none is asked for.

    Raises what `OutputFile` raises.
    """
    if path is None:
        return None
    from pyvmm.machine.console.output_file import OutputFile

    attempt = f"write the report of memory to {path}"
    return MemoryReportFile(path, stack.enter_context(OutputFile(path, attempt)), name, attempt)
