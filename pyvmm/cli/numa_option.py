# SPDX-License-Identifier: MIT
"""``--numa SIZE[,cpus=N[-N]]...[,policy=P,host-nodes=N[-N]...]``.

Names are those of QEMU's ``-numa node`` and of its memory backends; as there, `cpus` and
`host-nodes` may come several times.
"""

from __future__ import annotations

import argparse
import re
from itertools import chain

from pyvmm.cli.named_values import one_of
from pyvmm.cli.sizes import parse_size
from pyvmm.machine.hardware import MemoryPolicy, NumaNode

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


def parse_node(text: str) -> NumaNode:
    """Parse a value of ``--numa``. Raises `argparse.ArgumentTypeError`."""
    size, *rest = text.split(",")
    values: dict[str, list[str]] = {"cpus": [], "policy": [], "host-nodes": []}
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in values or not equals:
            known = "=, ".join(values)
            raise argparse.ArgumentTypeError(f"{part!r} cannot be: it may be {known}=")
        values[name].append(value)
    policies = values["policy"]
    if len(policies) > 1:
        raise argparse.ArgumentTypeError(f"'policy={policies[1]}' cannot be: comes twice")
    return NumaNode(
        parse_size(size),
        _numbers(values["cpus"]),
        one_of(MemoryPolicy, "policy", policies[0]) if policies else None,
        _numbers(values["host-nodes"]),
    )


def _numbers(ranges: list[str]) -> tuple[int, ...]:
    return tuple(chain.from_iterable(map(_range, ranges)))


def _range(text: str) -> range:
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no range (2, 0-3)")
    return range(first, last + 1)
