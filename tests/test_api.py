# SPDX-License-Identifier: MIT
"""The public names: loaded when used, all of them documented, the documentation's code true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyvmm
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.console import Console
from pyvmm.machine.events import Events, MachineEvent
from pyvmm.machine.leases import Leases
from pyvmm.machine.machine import Machine
from pyvmm.machine.machine_memory import MachineMemory
from pyvmm.machine.machine_network import MachineNetwork
from pyvmm.machine.memory_conversion import MemoryConversion
from pyvmm.machine.memory_states import MemoryStates
from pyvmm.machine.steering import Control
from pyvmm.machine.vcpus import MachineVcpu
from pyvmm.machine.virtio.balloon import Balloon

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import pyvmm; print(*set(sys.modules) - before)"
    # What an installation in place needs to be found comes with the interpreter.
    assert in_a_new_process(code).split() == ["pyvmm"]


def test_a_name_brings_what_it_needs_and_no_more() -> None:
    code = "import sys, pyvmm; pyvmm.EndingKind; print(*sys.modules)"
    loaded = in_a_new_process(code).split()
    assert "pyvmm.machine.ending" in loaded
    assert not {"trio", "cffi", "pyvmm.machine.running"} & set(loaded)


def test_every_name_is_there_and_nothing_else() -> None:
    assert list(pyvmm.__all__) == sorted(set(pyvmm.__all__))
    assert set(pyvmm.__all__) <= set(dir(pyvmm))
    for name in pyvmm.__all__:
        value = getattr(pyvmm, name)
        if value is not MachineEvent:
            assert value.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Assembly'"):
        pyvmm.Assembly  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(pyvmm.__file__).read_text(encoding="utf-8"))
    told: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyvmm."):
            told.update({alias.name: node.module or "" for alias in node.names})
    assert told == pyvmm._MODULES
    assert sorted(told) == list(pyvmm.__all__)


def test_every_name_is_documented_and_only_those() -> None:
    names = API[API.index("## Names") : API.index("## MachineConfig")]
    documented = set()
    for row in re.findall(r"^\| (`.+?) \|", names, re.MULTILINE):
        documented.update(re.findall(r"`(\w+)", row))
    assert documented == set(pyvmm.__all__)


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`control`", Control),
        ("`console`", Console),
        ("`vcpus[i]`", MachineVcpu),
        ("`network`", MachineNetwork),
        ("`events`", Events),
    ],
)
def test_every_method_is_documented_and_only_those(heading: str, kind: type) -> None:
    start = API.index(f"| {heading} |")
    table = API[start : API.find("\n\n", start)]
    documented: set[str] = set()
    for row in table.splitlines()[2:]:
        documented.update(re.findall(r"`(\w+)", row.split("|")[1]))
    assert documented == {name for name in vars(kind) if not name.startswith("_")}


def test_every_object_and_field_is_documented() -> None:
    machine = API[API.index("## Machine\n") :]
    assert all(f"`{name}" in machine for name in Machine.__annotations__)
    config = API[API.index("## MachineConfig") : API.index("## Machine\n")]
    for name in MachineConfig.__annotations__:
        assert f"`{name}`" in config, name


def test_what_is_documented_of_memory_is_there() -> None:
    start = API.index("| `memory` | never")
    table = API[start : API.index("\n\n", start)].splitlines()[2:]
    kinds: dict[str, type] = {
        "`states`": MemoryStates,
        "`conversion`": MemoryConversion,
        "`balloon`": Balloon,
    }
    for row in table:
        _, name, what, _ = row.split("|")
        kind = kinds.get(name.strip())
        where, names = (MachineMemory, name) if kind is None else (kind, what)
        for found in re.findall(r"`(\w+)\(", names):
            assert found == "lease" or callable(getattr(where, found)), found
    assert callable(Leases.lease)  # What `MachineMemory.lease` is.
    public = {name for name in dir(MachineMemory) if not name.startswith("_")}
    assert public == {"read", "write", "clear", "conversion", "balloon"}


def examples(path: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    return [code for code in found if "import pyvmm\n" in code]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [*examples("docs/api.md"), *examples("README.md")], ids=lambda code: f"{len(code)}"
)
def test_the_examples_run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
