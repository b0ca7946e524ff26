# SPDX-License-Identifier: MIT
"""``--kernel NAME``, once or more: a command asked of kernels in the lab, one after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from pyvmm.cli.ending_signals import interrupting_signals
from pyvmm.cli.standard_error import say_to_user
from pyvmm.errors import ExitCode, HostLacksError, InternalError, PyvmmError, UsageError
from pyvmm.held_signals import held_signals

Answered: TypeAlias = Sequence[tuple[str, dict[str, Any]]]
"""Kernels by name, and the JSON that each has answered."""

FactsOf: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Takes an answer apart into what is compared: words by what they are about."""


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


def answers_of(kernels: Sequence[str], words: Sequence[str], answered: Collection[int]) -> Answered:
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


def require_readable(
    told: Answered, words: str, read: Callable[[tuple[str, dict[str, Any]]], object]
) -> None:
    """Raise `InternalError` where an answer to ``pyvmm`` `words` lacks some of what `read` reads.

    `read` is called with the name of each kernel and its answer.
    """
    for name, value in told:
        try:
            read((name, value))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            attempt = f"read what pyvmm {words} has printed in the lab of {name}"
            raise InternalError(attempt, repr(error)) from error


def differences(told: Answered, facts_of: FactsOf) -> dict[str, dict[str, str | None]]:
    """By fact, the words of each kernel, where they are not all the same; None: it has no such."""
    facts = {name: facts_of(value) for name, value in told}
    names = dict.fromkeys(fact for each in facts.values() for fact in each)
    found = {}
    for fact in names:
        words = {name: each.get(fact) for name, each in facts.items()}
        if len(set(words.values())) > 1:
            found[fact] = words
    return found


def difference_lines(told: Answered, facts_of: FactsOf) -> list[str]:
    """Differences as lines of text, of two kernels or more; of one there are none."""
    if len(told) < 2:
        return []
    differing = differences(told, facts_of)
    lines = [f"where the kernels differ: {len(differing) or 'nowhere'}"]
    for fact, words in differing.items():
        lines += [f"  {fact}", *(f"    {name}: {word or '-'}" for name, word in words.items())]
    return [*lines, ""]


def to_json(told: Answered, facts_of: FactsOf) -> dict[str, object]:
    """Answers and differences as a JSON object."""
    kernels = [{"kernel": name, **value} for name, value in told]
    return {"kernels": kernels, "differences": differences(told, facts_of)}


def _answer(name: str, words: Sequence[str], answered: Collection[int]) -> dict[str, Any]:
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
