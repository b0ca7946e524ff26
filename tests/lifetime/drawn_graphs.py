# SPDX-License-Identifier: MIT
"""Graphs of scenarios and of short stories, for tests."""

from __future__ import annotations

from functools import cache

import pytest

from pyvmm.lifetime.adapting import adapted, design_named
from pyvmm.lifetime.designs import Design, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.graph import (
    Drawn,
    Graph,
)
from pyvmm.lifetime.graph_of_scene import drawn_of
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import BY_NAME, SCENARIOS, Scenario
from pyvmm.lifetime.universe import STANDARD

LINUX, MAIL = file_pins_vm(), memslot_pins_file()
BOUND = (Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND))

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)


@cache
def _drawn(scenario: str, design: str) -> Drawn:
    of, under = BY_NAME[scenario], design_named(design)
    return drawn_of(adapted(of.operations, under, of.universe), under)


def drawn(scenario: Scenario, design: Design) -> Drawn:
    return _drawn(scenario.name, design.name)


def told(operations: tuple[Operation, ...], design: Design) -> tuple[Graph, ...]:
    return drawn_of(adapted(operations, design, STANDARD), design).graphs
