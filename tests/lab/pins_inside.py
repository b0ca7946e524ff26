# SPDX-License-Identifier: MIT
"""``python -m tests.lab.pins_inside MOST``: attacks and replays, with each remedy of the kernel.

Run in a lab whose kernel pins files by memslots; one process, because starting Python takes seconds
there. A line of JSON for each set of remedies: `remedies`, `design` as it was found, `reached` by
attack, and of the replay of `MOST` sequences at most (0: all) `steps`, `taken`, `transitions`,
`by_address`, and `differences` as text.
"""

from __future__ import annotations

import json
import sys

from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.universe import SMALL, Universe
from pyvmm.replay.attack import Attack, attempt
from pyvmm.replay.plan import Comparison
from pyvmm.replay.remedies import design_of, only, remedies_there

MOST_VMS = 100
"""VMs that try to bind: where a freed VM's address is what is compared, one gets that sooner."""


def main(most: int, universe: Universe = SMALL) -> int:
    """Try each remedy alone, and none."""
    with System() as system:
        for name in ("", *remedies_there()):
            with only(frozenset([name] if name else [])):
                print(json.dumps(_tried(system, name, most, universe)), flush=True)
    return 0


def _tried(system: System, name: str, most: int, universe: Universe) -> dict[str, object]:
    vms = MOST_VMS if name == "never-rebind" else 1
    reached = {each.name: attempt(system, each, most_vms=vms).reached for each in Attack}
    with Comparison(system, lambda *_: None) as comparison:
        result = comparison.cover(universe, most or None)
    return {
        "remedies": name,
        "design": design_of(system).name,
        "reached": reached,
        "steps": result.tally.steps,
        "lives": result.tally.lives,
        "taken": result.taken,
        "transitions": result.transitions,
        "by_address": result.tally.by_address,
        "differences": ["\n".join(each.lines()) for each in result.differences],
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
