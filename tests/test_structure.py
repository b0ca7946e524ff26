"""The house rules that can be checked by looking at the source: rooms, imports, sizes, names."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyvmm"
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))

LEVELS = (
    "cli",
    "demo",
    "compare",
    "testing",
    "lab",
    "qmp",
    "machine",
    "net",
    "devices",
    "boot",
    "replay",
    "lifetime",
    "memory",
    "hosts",
    "rules",
    "errors",
)
"""Rooms from the top down: a room imports from below itself only."""

OUTSIDE_THE_ORDER = {"pyvmm/__init__.py", "pyvmm/__main__.py", "pyvmm/bundled_guests.py"}

PURE = ("memory", "boot", "devices", "lifetime", "rules", "errors")
PURE_COMPARE_MODULES = (
    "subjects", "observations", "plan", "statistics", "ram", "inventory", "differences", "verdict",
    "report", "json_report", "html_report", "pictures",
)  # fmt: skip
PURE_HOST_MODULES = ("registers", "exits", "capabilities", "interface")
EFFECTS = {
    "os", "mmap", "cffi", "trio", "socket", "subprocess", "threading", "signal", "fcntl", "time",
    "select", "tempfile", "shutil", "pathlib", "io", "asyncio", "termios", "ctypes", "rich",
}  # fmt: skip
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc"}
FILE_LIMIT = 420
FUNCTION_LIMIT = 65


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file: full dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            module = node.module or ""
            found.add(module)
            if module.startswith("pyvmm"):
                found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def room(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pyvmm" and len(parts) > 1 and parts[1] in LEVELS else None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_imports_from_below_itself_only(path: Path) -> None:
    own = path.with_suffix("").parts[1] if len(path.parts) > 1 else ""
    if str(path) in OUTSIDE_THE_ORDER:
        return
    assert own in LEVELS, f"{path} is in no room of the house"
    for name in imports(path):
        imported = room(name)
        if imported is not None:
            assert LEVELS.index(imported) >= LEVELS.index(own), f"{path} imports {name} from above"


def is_pure(path: Path) -> bool:
    parts = path.with_suffix("").parts
    if parts[1] == "compare" and parts[2] in PURE_COMPARE_MODULES:
        return True
    return parts[1] in PURE or (
        parts[1] == "hosts" and (len(parts) == 3 and parts[2] in (*PURE_HOST_MODULES, "__init__"))
    )


@pytest.mark.parametrize("path", [path for path in MODULES if is_pure(path)], ids=str)
def test_pure_rooms_import_nothing_with_effects(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in EFFECTS, f"{path} is pure but imports {name}"
        assert not name.startswith("pyvmm.hosts.kvm"), f"{path} is pure but imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_trio_lives_in_the_machine_and_above(path: Path) -> None:
    allowed = {"machine", "cli", "lab", "qmp", "net", "testing", "compare", "demo"}
    if path.with_suffix("").parts[1] not in allowed:
        assert not any(name.split(".")[0] == "trio" for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_cffi_stays_in_the_kvm_host(path: Path) -> None:
    if path.parts[1:3] != ("hosts", "kvm"):
        assert not any(
            name.split(".")[0] == "cffi" or name.startswith("pyvmm.hosts.kvm._kvm")
            for name in imports(path)
        )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_and_functions_stay_small_and_names_say_something(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LIMIT, f"{path} wants to become two rooms"
    assert not FORBIDDEN_NAMES & set(path.with_suffix("").parts)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LIMIT, f"{path}: {node.name} has {length} lines"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"{path}: bare except"
        )


def test_the_walk_sees_what_it_is_meant_to_see() -> None:
    # Were the lists above to miss the house, every test in this file would pass for nothing.
    assert len(MODULES) > 40
    assert sum(map(is_pure, MODULES)) > 20
    assert "trio" in {name.split(".")[0] for name in imports(Path("pyvmm/machine/machine.py"))}
    assert set(sys.stdlib_module_names) | {"cffi", "trio", "rich"} >= EFFECTS
