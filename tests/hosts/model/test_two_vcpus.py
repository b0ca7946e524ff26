# SPDX-License-Identifier: MIT
"""Two vCPUs of the model, each of which converts while an access of the other's is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.rules.profile import IN_PLACE
from tests.parity.in_place_memory import in_place
from tests.parity.scripted_guest import PAGE, Script, assemble
from tests.parity.two_sided import DATA, MIB, ROOM, Ask, TwoSided, Via, two_sided

TO_PRIVATE = Ask.ATTRIBUTES | Ask.PRIVATE
TO_SHARED = Ask.ATTRIBUTES | Ask.SHARED


@pytest.fixture(params=["in place", Via.IOCTLS, Via.GUEST_MEMORY], ids=str)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TwoSided]:
    """Data for two vCPUs: converted in place, or two-sided in each of the ways that there are."""
    code = assemble(tmp_path, amd=True)
    with ExitStack() as owned:
        if request.param == "in place":
            system = owned.enter_context(ModelSystem(IN_PLACE))
            yield owned.enter_context(in_place(system, code, 2))
        else:
            # Scripted guests are of KVM; what is used of it here, every host has.
            model = cast("KvmSystem", owned.enter_context(ModelSystem()))
            yield owned.enter_context(two_sided(model, code, request.param, 2, 1))


def test_each_converts_while_the_other_waits_for_an_answer(memory: TwoSided) -> None:
    scripts = [Script(), Script()]
    for number, script in enumerate(scripts):
        base = DATA + number * ROOM
        for gpa, size in 2 * [(base, PAGE), (base + PAGE, 2 * PAGE), (base + 2 * MIB, PAGE)]:
            for ask in (TO_PRIVATE, TO_SHARED):
                script.fill(gpa, PAGE, 1)
                memory.add_conversion(script, gpa, size, ask)
                script.host(lambda: None)
    memory.run(scripts)
