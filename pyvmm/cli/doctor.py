# SPDX-License-Identifier: MIT
"""``pyvmm doctor``: what this host has and lacks, and what follows for each command."""

from __future__ import annotations

import argparse
import json
import sys
from io import StringIO
from typing import TYPE_CHECKING

from pyvmm.cli.standard_output import columns, print_answer, unpadded
from pyvmm.errors import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from pyvmm.machine.findings import Examination, Verdict

_WIDTH_WITHOUT_TERMINAL = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = "Ends with 0 where guests can run, with 69 where they cannot."
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def command(options: argparse.Namespace) -> int:
    """Examine, print, and say by the exit code whether guests can run here."""
    from pyvmm.machine.examination import examine

    examination = examine()
    if options.json:
        print_answer(json.dumps(_plain(examination), indent=2))
    else:
        print_answer(_tables(examination))
    return ExitCode.OK if examination.can_run else ExitCode.HOST_LACKS


def _plain(examination: Examination) -> dict[str, object]:
    return {
        "host": examination.host,
        "can_run": examination.can_run,
        "findings": [
            {
                "what": finding.what,
                "verdict": finding.verdict.value,
                "answer": finding.answer,
                "meaning": finding.meaning,
            }
            for finding in examination.findings
        ],
        "consequences": [
            {
                "use": consequence.use,
                "verdict": consequence.verdict.value,
                "because": consequence.because,
            }
            for consequence in examination.consequences
        ],
    }


_WIDTH_FOR_TWO_TEXTS = 110


def _tables(examination: Examination) -> str:
    from rich.console import Console
    from rich.markup import escape

    is_terminal = sys.stdout.isatty()
    # Not written by rich, which answers a broken pipe with an exit of its own.
    text = StringIO()
    console = Console(
        file=text,
        width=columns() or _WIDTH_WITHOUT_TERMINAL,
        force_terminal=is_terminal,
        highlight=False,
    )
    # Two columns of text in so little room would be a dozen letters wide each.
    is_narrow = console.width < _WIDTH_FOR_TWO_TEXTS
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
    console.print(f"Host: {examination.host}", markup=False)
    console.print(asked)
    console.print(follows)
    told = text.getvalue().removesuffix("\n")
    return told if is_terminal else unpadded(told)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in {"", "what"})
    return table


def _mark(verdict: Verdict) -> str:
    """A word, coloured where there is colour: it must be readable without."""
    colour = {"has": "green", "partly": "yellow", "lacks": "red"}[verdict.value]
    return f"[{colour}]{verdict.value}[/]"
