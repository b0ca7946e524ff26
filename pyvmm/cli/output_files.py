# SPDX-License-Identifier: MIT
"""Files that a command writes its report to, open before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, TypeVar

from pyvmm.cli.output_paths import write_output
from pyvmm.errors import SystemCallError
from pyvmm.machine.console.output_file import OutputFile

R = TypeVar("R")


class OutputFiles(Generic[R]):
    """One report in several forms, a file each."""

    def __init__(
        self, what: str, forms: Iterable[tuple[Path | None, Callable[[R], str]]], stack: ExitStack
    ) -> None:
        """`what` is written, for messages; of `forms` those without a path are not wanted."""
        self._what = what
        self._files = [
            (path, stack.enter_context(OutputFile(path, self._attempt(path))), writer)
            for path, writer in forms
            if path is not None
        ]

    def write(self, report: R) -> None:
        """Write all of them, once all that goes into them is known.

        Raises `SystemCallError` for the first that fails, when the others are written.
        """
        texts = [writer(report) for _, _, writer in self._files]
        failures = []
        for (path, file, _), text in zip(self._files, texts, strict=True):
            try:
                write_output(file, text, self._attempt(path))
            except SystemCallError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _attempt(self, path: Path) -> str:
        return f"write the {self._what} to {path}"
