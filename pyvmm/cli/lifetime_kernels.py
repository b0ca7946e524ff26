# SPDX-License-Identifier: MIT
"""``pyvmm lifetime replay --kernel NAME``: replays on lab kernels, side by side."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pyvmm.cli.lab_kernels import answers_of
from pyvmm.cli.standard_output import WIDTH_WITHOUT_TERMINAL, columns, print_answer
from pyvmm.errors import ExitCode, InternalError
from pyvmm.folded import folded

DIFFERS = 1


def command(options: argparse.Namespace) -> int:
    """Replay on each, print what they do differently first, and say by the code if all is so."""
    words = ["lifetime", "replay", "--json"]
    for universe in options.universe or ():
        words += ["--universe", universe]
    if options.count is not None:
        words += ["--count", str(options.count)]
    told = answers_of(options.kernel, [*words, "--", *options.files], (ExitCode.OK, DIFFERS))
    for name, value in told:
        _require_replays(name, value)
    if options.json:
        kernels = [{"kernel": name, **value} for name, value in told]
        print_answer(json.dumps({"kernels": kernels, "differences": _differences(told)}, indent=1))
    else:
        print_answer(folded(_lines(told), columns() or WIDTH_WITHOUT_TERMINAL))
    return DIFFERS if any(map(_count, (value for _, value in told))) else ExitCode.OK


def _require_replays(name: str, value: dict[str, Any]) -> None:
    """Raise `InternalError` where `value` lacks some of what is told of the kernel `name`."""
    try:
        _facts(value)
        _lines([(name, value)])
    except (AttributeError, KeyError, TypeError) as error:
        attempt = f"read what pyvmm lifetime replay has printed in the lab of {name}"
        raise InternalError(attempt, repr(error)) from error


def _results(value: dict[str, Any]) -> list[dict[str, Any]]:
    return list(value["results"])


def _count(value: dict[str, Any]) -> int:
    """Number of times that a kernel did otherwise than the model of it."""
    return sum(len(result["differences"]) for result in _results(value))


def _facts(value: dict[str, Any]) -> dict[str, str]:
    """Words by what they are about: not of each set, since kernels without sharing have others."""
    facts = {
        "behaves as": str(value["profile"]),
        "differences from the model": str(_count(value) or "none"),
    }
    facts |= {
        f"bindings that ran out of memory, {ending.replace('_', ' ')}": str(count)
        for ending, count in value["failed_bindings"].items()
    }
    facts |= {
        f"replayable, {feature.replace('_', ' ')}": f"no: {why}"
        for feature, why in value["not_replayable"].items()
    }
    return facts


def _differences(told: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, str | None]]:
    """By fact, the word of each kernel, where they are not all the same."""
    facts = {name: _facts(value) for name, value in told}
    names = dict.fromkeys(fact for each in facts.values() for fact in each)
    found = {}
    for fact in names:
        words = {name: each.get(fact) for name, each in facts.items()}
        if len(set(words.values())) > 1:
            found[fact] = words
    return found


def _lines(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    lines = []
    if len(told) > 1:
        differing = _differences(told)
        lines.append(f"where the kernels differ: {len(differing) or 'nowhere'}")
        for fact, words in differing.items():
            lines += [f"  {fact}", *(f"    {name}: {word or '-'}" for name, word in words.items())]
    for name, value in told:
        lines += ["", f"{name}: behaves as '{value['profile']}'"]
        for result in _results(value):
            lines.append(
                f"  {result['name']}: {result['sequences']} sequences, {result['steps']} steps, "
                f"{result['taken']} of {result['transitions']} transitions taken"
            )
            for difference in result["differences"]:
                lines.append(
                    f"    step {difference['step']} of {len(difference['operations'])}, "
                    f"{difference['what']}: expected {difference['expected']}, "
                    f"seen {difference['seen']}"
                )
        lines.append(f"  differences from the model: {_count(value) or 'none'}")
    return lines if len(told) > 1 else lines[1:]
