# SPDX-License-Identifier: MIT
"""``pyvmm doctor``: what this host has and lacks, and what follows for each command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode

_LIMIT = 4 << 20
"""The largest file that is compared with, in bytes: an examination has some ten thousand."""
_DIFFERS = 1
_EPILOG = """\
Ends with 0 where guests can run, with 69 where they cannot. With --against: 0 where all answers are
the same, 1 where some differ; what was measured (speed, free memory) does not count.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--against", type=Path, metavar="FILE",
        help="compare with FILE, which pyvmm doctor --json wrote on this host or on another, "
        "and print the differences first",
    )  # fmt: skip


def command(options: argparse.Namespace) -> int:
    """Examine, compare, print, and say by the exit code how that went."""
    from pyvmm.machine.examination import examine

    if options.against is not None:
        return _compare(options.against, as_json=options.json)
    examination = examine()
    if options.json:
        print_answer(json.dumps(examination.to_json(), indent=2))
    else:
        from pyvmm.cli.doctor_tables import tables

        print_answer(tables(examination))
    return ExitCode.OK if examination.can_run else ExitCode.HOST_LACKS


def _compare(path: Path, *, as_json: bool) -> int:
    from pyvmm.machine.examination import examine
    from pyvmm.machine.examination_differences import answers_of, differences, read_answers
    from pyvmm.machine.image_file import read_input

    there = read_answers(read_input(path, _LIMIT), str(path))
    examination = examine()
    found = differences(there, answers_of(examination.to_json()))
    if as_json:
        listed = [one.to_json() for one in found]
        whole = {"against": there.host, "differences": listed, **examination.to_json()}
        print_answer(json.dumps(whole, indent=2))
    else:
        from pyvmm.cli.doctor_tables import differences_table, tables

        compared = differences_table(there.host, examination.host, found)
        print_answer(compared + "\n" + tables(examination))
    return _DIFFERS if found else ExitCode.OK
