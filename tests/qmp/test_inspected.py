# SPDX-License-Identifier: MIT
"""QMP asks about a machine by an interface, reaches into nothing and keeps nothing of its own."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import pyvmm.qmp
from pyvmm.machine.events import Events
from pyvmm.machine.machine import Machine
from pyvmm.machine.machine_host import MachineHost
from pyvmm.machine.steering import Control
from pyvmm.machine.vcpus import MachineVcpu
from pyvmm.qmp import inspected

FILES = sorted(Path(pyvmm.qmp.__file__).parent.glob("*.py"))
INSIDE = {"assembly", "board", "control", "ram", "reset", "outcome", "running", "vcpu_thread"}
"""Modules of the machine that are for its inside."""
MUTABLE = {"dict", "list", "set", "deque", "defaultdict", "WeakKeyDictionary", "Event", "Lock"}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_module_imports_the_machines_inside_or_asks_for_what_is_private(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert module.removeprefix("pyvmm.machine.") not in INSIDE, ast.unparse(node)
            assert "import_module" not in {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            assert "machine" not in ast.unparse(node.value), ast.unparse(node)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_module_has_state(file: Path) -> None:
    for node in tree(file).body:
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=value):
                made = value.func if isinstance(value, ast.Call) else None
                assert made is None or ast.unparse(made).split(".")[-1] not in MUTABLE, made
                assert not isinstance(value, ast.List | ast.Set), ast.unparse(node)
                assert not isinstance(value, ast.Dict) or value.keys, ast.unparse(node)


@pytest.mark.parametrize(
    ("interface", "kind"),
    [
        (inspected.InspectedControl, Control),
        (inspected.InspectedHost, MachineHost),
        (inspected.InspectedVcpu, MachineVcpu),
        (inspected.InspectedEvents, Events),
    ],
)
def test_a_machines_objects_have_what_qmp_asks_for(interface: type, kind: type) -> None:
    asked = {name for name in vars(interface) if not name.startswith("_")}
    assert asked
    assert asked <= set(vars(kind))
    for name in asked:
        wanted, there = vars(interface)[name], vars(kind)[name]
        assert isinstance(wanted, property) == isinstance(there, property)
        assert inspect.iscoroutinefunction(wanted) == inspect.iscoroutinefunction(there)


def test_a_machine_has_all_of_these_objects() -> None:
    asked = {name for name in vars(inspected.Inspected) if not name.startswith("_")}
    assert asked <= set(inspect.get_annotations(Machine))
