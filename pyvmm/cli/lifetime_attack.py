# SPDX-License-Identifier: MIT
"""``pyvmm lifetime attack``: whom a VM's memory reaches on this kernel, tried with two VMs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from pyvmm.cli.standard_output import print_answer
from pyvmm.errors import ExitCode, HostLacksError, UsageError
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.attack import Attack, Attempt, attempt
from pyvmm.replay.remedies import PARAMETERS, design_of, only, remedies_on, remedies_there

NONE = "none"
Tried = tuple[str, Attempt]
"""Remedies that were on, as text, and what came of an attack."""


def command(options: argparse.Namespace) -> int:
    """Attack, and print."""
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
    with System() as system:
        design = design_of(system)
        tried = list(_tried(system, options))
    if options.json:
        found = [{"remedies": remedies, **made.to_json()} for remedies, made in tried]
        design_name = design.name.split(" + ")[0]
        print_answer(json.dumps({"design": design_name, "attempts": found}, indent=1))
    elif options.each_remedy:
        print_answer("\n".join(_table(tried)))
    else:
        print_answer("\n".join(_told(tried)))
    return ExitCode.OK


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


def _told(tried: Sequence[Tried]) -> list[str]:
    told = [f"remedies that are on: {tried[0][0]}"]
    for _, made in tried:
        told += ["", f"{made.attack.value}:"]
        told += [f"  {what}: {answer}" for what, answer in made.steps]
        told.append(f"  => {made.verdict}")
    return told


def _table(tried: Sequence[Tried]) -> list[str]:
    told = []
    width = max(len(name) for name in PARAMETERS)
    for attack in Attack:
        told += ["", f"{attack.value}:"]
        told += [
            f"  {name:<{width}}  {made.verdict}" for name, made in tried if made.attack is attack
        ]
    return told[1:]
