# SPDX-License-Identifier: MIT
"""``pyvmm parity``: the cases of the kernel's own tests, asked of this KVM or of lab kernels."""

from __future__ import annotations

import argparse
import json

from pyvmm.cli.ending_signals import interrupting_signals
from pyvmm.cli.lab_kernels import add_kernel_option, answers_of
from pyvmm.cli.progress import Progress
from pyvmm.cli.standard_output import folding_width, print_answer
from pyvmm.errors import ExitCode
from pyvmm.folded import folded
from pyvmm.parity import running
from pyvmm.parity.table import Case
from pyvmm.parity.verdicts import Answer, Parity, Verdict, differences

DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.epilog = (
        "docs/parity.md has the cases. Ends with 1 where a kernel does otherwise than the kernel's "
        "tests say. It takes pytest and an assembler."
    )
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN",
        help="only cases whose test's name matches, as pytest's -k (default: all)",
    )  # fmt: skip
    add_kernel_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def command(options: argparse.Namespace) -> int:
    """Ask, print, and say by the exit code whether all is as the kernel's tests say."""
    if options.kernel:
        chosen = [options.pattern] if options.pattern is not None else []
        cases = running.cases()
        told = answers_of(options.kernel, ["parity", "--json", *chosen], (ExitCode.OK, DIFFERS))
        kernels = [Parity.from_json(name, value, cases) for name, value in told]
    else:
        progress = Progress()
        with interrupting_signals():
            kernels = [running.run(options.pattern, progress.tell)]
        progress.done()
    if options.json:
        print_answer(json.dumps(_plain(kernels), indent=1))
    else:
        print_answer(folded(_lines(kernels), folding_width()))
    otherwise = any(
        verdict.answer is Answer.OTHERWISE for kernel in kernels for verdict in kernel.verdicts
    )
    return DIFFERS if otherwise else ExitCode.OK


def _plain(kernels: list[Parity]) -> dict[str, object]:
    if len(kernels) == 1:
        return kernels[0].to_json()
    return {
        "kernels": [kernel.to_json() for kernel in kernels],
        "differences": [case.function for case in differences(kernels)],
    }


def _lines(kernels: list[Parity]) -> list[str]:
    told = [f"{_heading(kernel)}: {_summary(kernel)}" for kernel in kernels]
    if len(kernels) > 1:
        differing = differences(kernels)
        told += ["", f"where they differ: {len(differing) or 'nowhere'}"]
        for case in differing:
            told.append(f"  {_name(case)}")
            told += [line for kernel in kernels for line in _answer(kernel, case)]
    reasons: dict[str, int] = {}
    for kernel in kernels:
        told += ["", _heading(kernel)]
        for verdict in kernel.verdicts:
            numbers = [reasons.setdefault(why, len(reasons) + 1) for why in verdict.why]
            notes = "".join(f" [{number}]" for number in numbers)
            name = f"{_name(verdict.case)}{_part(verdict)}"
            told.append(f"  {verdict.answer.value:9} {name}{notes}")
    return [*told, "", *(f"[{number}] {why}" for why, number in reasons.items())]


def _heading(kernel: Parity) -> str:
    return f"{kernel.name} (Linux {kernel.release})" if kernel.name else f"Linux {kernel.release}"


def _summary(kernel: Parity) -> str:
    counts = [
        (answer, sum(verdict.answer is answer for verdict in kernel.verdicts)) for answer in Answer
    ]
    told = ", ".join(f"{count} {answer.value}" for answer, count in counts if count)
    return f"of {len(kernel.verdicts)} cases {told}"


def _name(case: Case) -> str:
    return f"{case.kernel_test}: {case.name}"


def _part(verdict: Verdict) -> str:
    """Says how many of several tests passed, where that were not all."""
    return "" if verdict.shown in (0, verdict.asked) else f" ({verdict.shown} of {verdict.asked})"


def _answer(kernel: Parity, case: Case) -> list[str]:
    for verdict in kernel.verdicts:
        if verdict.case == case:
            why = f": {verdict.why[0]}" if verdict.why else ""
            return [f"    {kernel.name}: {verdict.answer.value}{_part(verdict)}{why}"]
    return [f"    {kernel.name}: not asked"]
