# SPDX-License-Identifier: MIT
"""``--kernel NAME``, once or more: a command asked of kernels in the lab, one after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Sequence

from pyvmm.cli.ending_signals import interrupting_signals
from pyvmm.cli.standard_error import say_to_user
from pyvmm.errors import ExitCode, HostLacksError, InternalError, PyvmmError, UsageError
from pyvmm.held_signals import held_signals


class NotAnsweredError(PyvmmError):
    """The command in the lab ended without an answer."""

    exit_code = ExitCode.SYSTEM_CALL


_ERRORS: dict[int, type[PyvmmError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.HOST_LACKS: HostLacksError,
}
"""By the exit code of the command in the lab, which is passed on."""


def add_kernel_option(parser: argparse.ArgumentParser) -> None:
    """``--kernel NAME``, into `options.kernel`: a list, or None."""
    parser.add_argument(
        "--kernel",
        action="append",
        metavar="NAME",
        help="ask a lab with this kernel (one that pyvmm lab build made, or a file); given more "
        "than once: each, with what they answer differently first",
    )


def answers_of(
    kernels: Sequence[str], words: Sequence[str], answered: Collection[int]
) -> list[tuple[str, dict[str, object]]]:
    """The JSON that ``pyvmm`` with `words` prints in a lab with each of `kernels`, by name.

    `answered` are the exit codes with which it has answered. For any other, which
    has been explained on standard error, raises `UsageError`, `HostLacksError` or
    `NotAnsweredError`; `UsageError` for a kernel named twice. A signal that ends this command ends
    the one in the lab, too: `KeyboardInterrupt`.
    """
    if len(set(kernels)) < len(kernels):
        raise UsageError(
            f"compare {' and '.join(kernels)}", "one is named twice", "name different kernels"
        )
    with interrupting_signals():
        return [(name, _answer(name, words, answered)) for name in kernels]


def _answer(name: str, words: Sequence[str], answered: Collection[int]) -> dict[str, object]:
    pyvmm = [sys.executable, "-m", "pyvmm"]
    say_to_user(f"asking a lab with the kernel {name}")
    command = [*pyvmm, "lab", "run", "--kernel", name, "--", *pyvmm, *words]
    lab = None
    try:
        with held_signals():
            lab = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        printed, _ = lab.communicate()
    except BaseException:
        if lab is not None:
            lab.terminate()
            lab.communicate()
        raise
    if lab.returncode not in answered:
        kind = _ERRORS.get(lab.returncode, NotAnsweredError)
        cause = f"the command there ended with {lab.returncode}, as said before"
        raise kind(f"ask the kernel {name}", cause)
    attempt = f"read what pyvmm {words[0]} has printed in the lab of {name}"
    try:
        value = json.loads(printed)
    except ValueError as error:
        raise InternalError(attempt, str(error)) from error
    if not isinstance(value, dict):
        raise InternalError(attempt, "it is no JSON object")
    return value
