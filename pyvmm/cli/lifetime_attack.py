# SPDX-License-Identifier: MIT
"""``pyvmm lifetime attack``: whom a VM's memory reaches, tried with two VMs; in labs as well."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pyvmm.cli.lab_kernels import (
    Answered,
    answers_of,
    difference_lines,
    require_readable,
    to_json,
)
from pyvmm.cli.standard_output import folding_width, print_answer
from pyvmm.errors import ExitCode, HostLacksError, UsageError
from pyvmm.folded import folded
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.attack import Attack, Attempt, attempt
from pyvmm.replay.remedies import PARAMETERS, design_of, only, remedies_on, remedies_there

NONE = "none"
Tried = tuple[str, Attempt]
"""Remedies that were on, as text, and what came of an attack."""


def command(options: argparse.Namespace) -> int:
    """Attack, and print; on each kernel that is named, and what they do differently first."""
    _check(options)
    if options.kernel:
        told = answers_of(options.kernel, _words(options), (ExitCode.OK,))
        by_remedy = options.each_remedy
        require_readable(
            told,
            "lifetime attack",
            lambda one: (_facts(one[1]), _lines_of_kernels([one], by_remedy=by_remedy)),
        )
        if options.json:
            print_answer(json.dumps(to_json(told, _facts), indent=1))
        else:
            _print(_lines_of_kernels(told, by_remedy=by_remedy))
        return ExitCode.OK
    with System() as system:
        design = design_of(system).name.split(" + ")[0]
        tried = [{"remedies": name, **made.to_json()} for name, made in _tried(system, options)]
    found = {"design": design, "attempts": tried}
    if options.json:
        print_answer(json.dumps(found, indent=1))
    else:
        _print(_lines(found, by_remedy=options.each_remedy))
    return ExitCode.OK


def _print(lines: list[str]) -> None:
    print_answer(folded(lines, folding_width()))


def _check(options: argparse.Namespace) -> None:
    if options.vms < 1:
        raise UsageError(f"let {options.vms} VMs try", "that is none", "give 1 or more")
    for name in options.remedy:
        if name not in PARAMETERS:
            raise UsageError(
                f"turn the remedy {name!r} on",
                "there is none",
                f"it is one of {', '.join(PARAMETERS)}",
            )
    if options.each_remedy and options.remedy:
        raise UsageError("try each remedy, and some", "it is one or the other", "leave one out")


def _words(options: argparse.Namespace) -> list[str]:
    """The command to ask in a lab."""
    words = ["lifetime", "attack", "--json", "--vms", str(options.vms)]
    words += ["--each-remedy"] if options.each_remedy else []
    return words + [word for name in options.remedy for word in ("--remedy", name)]


def _tried(system: System, options: argparse.Namespace) -> Iterator[Tried]:
    """Every attack with what is on, with the remedies named, or with none and each alone."""
    sets: list[frozenset[str]] = [frozenset(options.remedy)]
    if options.each_remedy:
        there = remedies_there()
        if not there:
            raise HostLacksError(
                "try each remedy",
                "this kernel has no such parameters of kvm",
                "pyvmm lab build --with memslot-pins-file makes one that has them",
            )
        sets = [frozenset(), *(frozenset([name]) for name in there)]
    elif not options.remedy:
        for attack in Attack:
            yield _named(remedies_on()), attempt(system, attack, most_vms=options.vms)
        return
    for remedies in sets:
        with only(remedies):
            for attack in Attack:
                yield _named(remedies), attempt(system, attack, most_vms=options.vms)


def _named(remedies: frozenset[str]) -> str:
    return " + ".join(name for name in PARAMETERS if name in remedies) or NONE


_TITLES = {attack.key: attack.value for attack in Attack}


def _lines_of_kernels(told: Answered, *, by_remedy: bool) -> list[str]:
    lines = difference_lines(told, _facts)
    for number, (name, found) in enumerate(told):
        lines += [""] * (number > 0)
        lines.append(f"{name}: follows {found['design']}")
        lines += [f"  {line}".rstrip() for line in _lines(found, by_remedy=by_remedy)]
    return lines


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Verdicts by attack, and by the remedy where each was tried; and the design."""
    attempts = found["attempts"]
    remedies = dict.fromkeys(str(each["remedies"]) for each in attempts)
    facts = {"design": str(found["design"]), "remedies": ", ".join(remedies)}
    for each in attempts:
        beside = f", remedy {each['remedies']}" if len(remedies) > 1 else ""
        facts[f"{_TITLES[each['attack']]}{beside}"] = str(each["verdict"])
    return facts


def _lines(found: Mapping[str, Any], *, by_remedy: bool) -> list[str]:
    """The steps of each attack; or, by remedy, what they came to."""
    attempts = found["attempts"]
    told = [] if by_remedy else [f"remedies that are on: {attempts[0]['remedies']}"]
    width = max(len(name) for name in PARAMETERS)
    for key, title in _TITLES.items():
        told += ["", f"{title}:"]
        for each in (each for each in attempts if each["attack"] == key):
            if by_remedy:
                told.append(f"  {each['remedies']:<{width}}  {each['verdict']}")
            else:
                told += [f"  {step['step']}: {step['answer']}" for step in each["steps"]]
                told.append(f"  => {each['verdict']}")
    return told[1:] if by_remedy else told
