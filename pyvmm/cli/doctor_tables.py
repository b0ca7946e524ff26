# SPDX-License-Identifier: MIT
"""Tables that ``pyvmm doctor`` prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyvmm.cli.standard_output import folding_width, unpadded
from pyvmm.machine.kernel_matrix import Attempt, answer, flag_names
from pyvmm.visible import visible

if TYPE_CHECKING:
    from pyvmm.machine.examination_differences import Difference
    from pyvmm.machine.findings import Examination, Verdict
    from pyvmm.machine.kernel_matrix import Cell, KernelMatrix

_WIDTH_FOR_TWO_TEXTS = 110
_LONGEST_FLAG = 11
"""Letters."""
_LONGEST_ERRNO = 6
_HEADERS = {
    Attempt.CREATE: "create",
    Attempt.MAP: "mmap",
    Attempt.TOUCH: "touch",
    Attempt.BIND: "bind",
    Attempt.BIND_READONLY: "r/o",
    Attempt.BIND_DIRTY_LOG: "log",
    Attempt.PRIVATE_BY_VM: "by VM",
    Attempt.PRIVATE_BY_FILE: "by file",
}
_LEGEND = """\
touch: by the host's mapping (EFAULT: a bare touch is SIGBUS); bind, r/o, log: a memslot on it, a \
read-only one, one with a dirty log; by VM, by file: making a page private by the VM's ioctl, by \
the file's"""


def tables(examination: Examination) -> str:
    """Everything found, as tables as wide as the terminal."""
    output = _Output()
    is_narrow = output.console.width < _WIDTH_FOR_TWO_TEXTS
    # Two columns of text in so little room would be a dozen letters wide each.
    asked = _table("what", "", *(("answer: meaning",) if is_narrow else ("answer", "meaning")))
    for finding in examination.findings:
        texts = (finding.answer, finding.meaning)
        asked.add_row(
            finding.what,
            _mark(finding.verdict),
            *map(escape, (": ".join(texts),) if is_narrow else texts),
        )
    follows = _table("what follows for", "", "because")
    for consequence in examination.consequences:
        follows.add_row(consequence.use, _mark(consequence.verdict), escape(consequence.because))
    output.console.print(f"Host: {examination.host}", markup=False)
    output.console.print(asked)
    if examination.matrix is not None:
        for part in _matrix(examination.matrix):
            output.console.print(part)
        output.console.print()
    output.console.print(follows)
    return output.text()


def differences_table(there: str, here: str, found: Sequence[Difference]) -> str:
    """Differences between the hosts `there` and `here`, as a table; one line where there are none.

    Ends with a blank line.
    """
    output = _Output()
    output.console.print(f"There: {visible(there)}", markup=False)
    output.console.print(f"Here:  {here}", markup=False)
    if found:
        told = _table("different", "there", "here")
        for one in found:
            told.add_row(*(escape(visible(each)) for each in (one.what, one.there, one.here)))
        output.console.print(told)
    else:
        output.console.print("No difference.")
        output.console.print()
    return output.text() + "\n"


class _Output:
    """A console of rich's whose text is not written by rich.

    That answers a broken pipe with an exit of its own.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._file = StringIO()
        self.console = Console(
            file=self._file,
            width=folding_width(),
            force_terminal=self._is_terminal,
            highlight=False,
        )

    def text(self) -> str:
        """Everything printed, without the last newline."""
        told = self._file.getvalue().removesuffix("\n")
        return told if self._is_terminal else unpadded(told)


def _matrix(matrix: KernelMatrix) -> Iterator[Table | str]:
    """A table for each type of VM that can be made, and a line about the others."""
    for kind, cell in matrix.vm_types.items():
        if cell:
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("flags", min_width=_LONGEST_FLAG)
        for header in _HEADERS.values():
            table.add_column(header, no_wrap=True, min_width=_LONGEST_ERRNO)
        for row in matrix.rows:
            if row.vm_type is kind:
                cells = (_cell(row.cells[attempt]) for attempt in _HEADERS)
                table.add_row(flag_names(row.flags), *cells)
        yield f"guest_memfds of VMs of type {kind.name}:"
        yield table
    yield _LEGEND
    refused = [f"{kind.name} {answer(cell)}" for kind, cell in matrix.vm_types.items() if cell]
    if refused:
        yield f"VM types refused: {', '.join(refused)}"


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in {"", "what"})
    return table


def _mark(verdict: Verdict) -> str:
    """A word, coloured where there is colour: it must be readable without."""
    colour = {"has": "green", "partly": "yellow", "lacks": "red"}[verdict.value]
    return f"[{colour}]{verdict.value}[/]"


def _cell(cell: Cell) -> str:
    colour = "dim" if cell is None else "red" if cell else "green"
    return f"[{colour}]{answer(cell)}[/]"
