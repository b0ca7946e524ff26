# SPDX-License-Identifier: MIT
"""The blocking twin is what its generator makes of the asynchronous objects, and lacks nothing."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from pyvmm.machine import blocking_objects, generate_blocking
from pyvmm.machine.console.console import Console
from pyvmm.machine.events import Events
from pyvmm.machine.machine import Machine
from pyvmm.machine.machine_network import MachineNetwork
from pyvmm.machine.steering import Control
from pyvmm.machine.vcpus import MachineVcpu
from pyvmm.testing import blocking_vm
from pyvmm.testing.generate_blocking import TESTING
from tests.machine import generate_blocking_tests, test_open_blocking_machine
from tests.testing import generate_blocking_tests as generate_vm_tests
from tests.testing import test_blocking_vm


@pytest.mark.parametrize(
    ("file", "generated"),
    [
        (blocking_objects.__file__, generate_blocking.generated),
        (test_open_blocking_machine.__file__, generate_blocking_tests.generated),
        (blocking_vm.__file__, TESTING.generated),
        (test_blocking_vm.__file__, generate_vm_tests.generated),
    ],
    ids=["objects", "tests", "vm", "vm-tests"],
)
def test_what_is_there_is_what_is_made(file: str, generated: object) -> None:
    assert callable(generated)
    there = ast.parse(Path(file).read_text(encoding="utf-8"))
    assert ast.dump(there) == ast.dump(ast.parse(generated())), "run make blocking"


def public(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize("kind", [Control, Console, MachineVcpu, Events, MachineNetwork])
def test_a_twin_has_the_same_methods_with_the_same_parameters(kind: type) -> None:
    twin = public(getattr(blocking_objects, f"Blocking{kind.__name__}"))
    assert twin.keys() == public(kind).keys()
    for name, method in public(kind).items():
        if isinstance(method, property):
            assert isinstance(twin[name], property)
            continue
        assert callable(method)
        blocking = twin[name]
        assert callable(blocking)
        theirs = dict(inspect.signature(blocking).parameters)
        if inspect.iscoroutinefunction(method):
            assert theirs.pop("timeout").default is None
        assert not inspect.iscoroutinefunction(blocking)
        assert theirs == dict(inspect.signature(method).parameters)


def test_every_object_of_a_machine_that_waits_has_a_twin() -> None:
    twins = {kind.__name__ for kind in (Control, Console, MachineVcpu, Events, MachineNetwork)}
    assert set(generate_blocking.TWINS) == twins
    for name, kind in inspect.get_annotations(Machine).items():
        twin = inspect.get_annotations(blocking_objects.BlockingMachine)[name]
        word = kind.removeprefix("tuple[").removesuffix(", ...]")
        assert twin == (kind.replace(word, f"Blocking{word}") if word in twins else kind)
