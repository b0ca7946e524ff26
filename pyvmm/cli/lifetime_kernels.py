# SPDX-License-Identifier: MIT
"""``pyvmm lifetime replay --kernel NAME``: replays on lab kernels, side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from pyvmm.cli.lab_kernels import (
    Answered,
    answers_of,
    difference_lines,
    require_readable,
    to_json,
)
from pyvmm.cli.standard_output import folding_width, print_answer
from pyvmm.errors import ExitCode
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
    require_readable(told, "lifetime replay", lambda one: (_facts(one[1]), _lines([one])))
    if options.json:
        print_answer(json.dumps(to_json(told, _facts), indent=1))
    else:
        print_answer(folded(_lines(told), folding_width()))
    return DIFFERS if any(map(_count, (value for _, value in told))) else ExitCode.OK


def _results(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(value["results"])


def _count(value: Mapping[str, Any]) -> int:
    """Number of times that a kernel did otherwise than the model of it."""
    return sum(len(result["differences"]) for result in _results(value))


def _facts(value: Mapping[str, Any]) -> dict[str, str]:
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


def _lines(told: Answered) -> list[str]:
    lines = difference_lines(told, _facts)
    for number, (name, value) in enumerate(told):
        lines += [""] * (number > 0)
        lines.append(f"{name}: behaves as '{value['profile']}'")
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
    return lines
