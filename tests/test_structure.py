# SPDX-License-Identifier: MIT
"""The house rules that can be checked by looking at the source: rooms, imports, sizes, names."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pyvmm.memory import layout
from pyvmm.rules import abi

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyvmm"
MODULES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))

LEVELS = (
    "cli",
    "shell",
    "demo",
    "testing",
    "compare",
    "parity",
    "lab",
    "qmp",
    "gdb",
    "experiment",
    "machine",
    "net",
    "devices",
    "boot",
    "acpi",
    "replay",
    "lifetime",
    "memory",
    "hosts",
    "rules",
    "errors",
    "folded",
    "held_signals",
    "signal_names",
    "toml_table",
    "typed_values",
    "visible",
)
"""Rooms from the top down: a room imports from below itself only."""

OUTSIDE_THE_ORDER = {"pyvmm/__init__.py", "pyvmm/__main__.py", "pyvmm/bundled_guests.py"}

PURE = (
    "memory",
    "boot",
    "acpi",
    "devices",
    "lifetime",
    "rules",
    "errors",
    "folded",
    "toml_table",
    "typed_values",
    "visible",
)
PURE_MODULES = {
    "experiment": ("c_layout", "c_text", "c_values"),
    "hosts": (
        "__init__", "registers", "exits", "capabilities", "interface", "interrupts", "gsi_table",
        "call_fields", "call_record", "cpuid", "guest_cpuid", "held_ranges", "owner", "page_held",
        "answers", "page_holders", "pit", "posted_ring", "raw_exits",
        "queue_engine", "saveable", "saved_state", "topology",
    ),
    "lab": ("__init__", "selftest_verdicts"),
    "parity": ("__init__", "table", "verdicts"),
    "qmp": (
        "__init__", "wire", "session", "command", "event_names", "core_file",
        "human_commands",
    ),
    "net": (
        "__init__", "device_names", "forwards", "found", "frames", "host_address", "marks",
        "offloads", "pcap", "topology", "topology_checks", "topology_drawing", "topology_file",
        "topology_marks",
    ),
    "gdb": (
        "__init__", "fields", "packets", "registers", "registers_xml", "session", "target",
    ),
    "demo/house": ("__init__", "lines"),
    "shell": ("__init__", "map_lines", "watch"),
    "compare": (
        "__init__", "subjects", "observations", "plan", "statistics", "ram", "inventory",
        "differences", "verdict", "report", "json_report", "html_report", "pictures",
    ),
    "compare/linux": (
        "__init__", "facts", "known", "verdict", "report", "text", "json_form",
    ),
    "testing": ("__init__", "boot_defaults", "failures", "nearest", "patterns", "transcript"),
    "testing/drivers": ("__init__", "driver", "monitors"),
    "testing/results": (
        "__init__", "tap", "tap_lines", "tap_results", "tap_stream", "ktap_document", "verdicts",
        "guest_failures",
    ),
    "testing/images": ("__init__", "cases"),
    "testing/network": ("__init__", "messages"),
    "testing/session": ("__init__", "report_lines"),
    "demo/stage": ("__init__", "exit_words", "mailbox", "secret"),
    "demo/telling": (
        "__init__", "acts", "beginning", "chapter", "links", "moments", "orders", "outcomes",
        "pins_picture", "player", "predictions", "puzzles", "solving", "usages",
    ),
    "demo/chapters": (
        "__init__", "attack", "conversion", "destroys", "exercises", "files", "glossary",
        "guest_pages", "hardware", "in_place", "launch", "pins", "private_exercises", "slots",
        "teardown",
    ),
    "demo/page": (
        "__init__", "attacker", "call_words", "calls", "handout", "page_cells", "page_map",
        "parts", "pins", "shell", "steps", "words",
    ),
    "demo/terminal": (
        "__init__", "commands", "frames", "keys", "lines", "parts", "reading", "references", "text",
        "text_attacker", "text_calls", "text_memory", "text_pins",
    ),
    "demo/web": ("__init__", "admission", "document", "lecture", "messages", "parts"),
    "machine/monitor": (
        "__init__", "expressions", "memory_lines", "memory_tree", "network_lines", "pci_lines",
        "register_lines",
    ),
    "testing/matrix": (
        "__init__", "plan", "matrix_file", "results", "summary", "json_report",
        "html_report", "result_bytes",
    ),
}  # fmt: skip
"""Rooms of which only these modules are pure."""
EFFECTS = {
    "os", "mmap", "cffi", "trio", "socket", "subprocess", "threading", "signal", "fcntl", "time",
    "select", "tempfile", "shutil", "pathlib", "io", "asyncio", "termios", "ctypes", "rich",
}  # fmt: skip
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc"}
FILE_LIMIT = 420
FUNCTION_LIMIT = 65
QUESTIONS = {
    "What", "Whether", "How", "Who", "Whose", "Whom", "Where", "Which", "When", "Why"
}  # fmt: skip


ROOMS: dict[str, list[Path]] = {}
for _path in MODULES:
    ROOMS.setdefault(_path.parts[1] if len(_path.parts) > 2 else _path.name, []).append(_path)

each_room = pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS.keys())


@cache
def source(path: Path) -> tuple[str, tuple[ast.AST, ...]]:
    """A file's text, and everything in its syntax tree."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text, tuple(ast.walk(ast.parse(text)))


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file: full dotted names."""
    found: set[str] = set()
    for node in source(path)[1]:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            module = node.module or ""
            found.add(module)
            if module.startswith("pyvmm"):
                found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pyvmm" and len(parts) > 1 and parts[1] in LEVELS else None


@each_room
def test_a_room_imports_from_below_itself_only(room: list[Path]) -> None:
    for path in room:
        if str(path) in OUTSIDE_THE_ORDER:
            continue
        own = path.with_suffix("").parts[1]
        assert own in LEVELS, f"{path} is in no room of the house"
        for name in imports(path):
            imported = room_of(name)
            if imported is not None:
                assert LEVELS.index(imported) >= LEVELS.index(own), f"{path} imports {name}"


def is_pure(path: Path) -> bool:
    parts = path.with_suffix("").parts
    room = "/".join(parts[1:-1])
    if room in PURE_MODULES:
        return parts[-1] in PURE_MODULES[room]
    return parts[1] in PURE


@each_room
def test_pure_rooms_import_nothing_with_effects(room: list[Path]) -> None:
    for path in filter(is_pure, room):
        for name in imports(path):
            assert name.split(".")[0] not in EFFECTS, f"{path} is pure but imports {name}"
            assert not name.startswith("pyvmm.hosts.kvm"), f"{path} is pure but imports {name}"


@each_room
def test_trio_lives_in_the_machine_and_above(room: list[Path]) -> None:
    allowed = {"machine", "cli", "lab", "qmp", "gdb", "net", "testing", "compare", "demo"}
    for path in room:
        if path.with_suffix("").parts[1] not in allowed:
            tops = {name.split(".")[0] for name in imports(path)}
            assert "trio" not in tops, f"{path} imports trio"


@each_room
def test_cffi_stays_in_the_kvm_host(room: list[Path]) -> None:
    for path in room:
        if path.parts[1:3] != ("hosts", "kvm"):
            for name in imports(path):
                assert name.split(".")[0] != "cffi", f"{path} imports {name}"
                assert not name.startswith("pyvmm.hosts.kvm._kvm"), f"{path} imports {name}"


@each_room
def test_files_and_functions_stay_small_and_names_say_something(room: list[Path]) -> None:
    for path in room:
        text, nodes = source(path)
        assert text.count("\n") <= FILE_LIMIT, f"{path} wants to become two rooms"
        assert not FORBIDDEN_NAMES & set(path.with_suffix("").parts), path
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= FUNCTION_LIMIT, f"{path}: {node.name} has {length} lines"
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            assert not bare, f"{path}: bare except"


def docstrings(nodes: tuple[ast.AST, ...]) -> list[ast.Constant]:
    """Every text that stands alone: of modules, classes, functions, and under names."""
    alone = [node.value for node in nodes if isinstance(node, ast.Expr)]
    return [
        text for text in alone if isinstance(text, ast.Constant) and isinstance(text.value, str)
    ]


def first_word(docstring: ast.Constant) -> str:
    match = re.match(r"\w*", str(docstring.value).strip())
    return match[0] if match else ""


@each_room
def test_docstrings_begin_with_a_verb_or_a_noun_not_with_a_question(room: list[Path]) -> None:
    for path in room:
        for docstring in docstrings(source(path)[1]):
            assert first_word(docstring) not in QUESTIONS, f"{path}:{docstring.lineno}"


ABI = Path("pyvmm/rules/abi.py")
OF_A_PAGE = re.compile(r"_*PAGE(_SIZE|_BYTES|_SHIFT|_MASK)?|.*MAP_GPA_RANGE")
BY_PAGES = (ast.Mult, ast.FloorDiv, ast.Mod, ast.BitAnd)
"""Operations that are about pages where a side of them is 4096, or 4095."""


def own_definitions(path: Path) -> Iterator[str]:
    """Where a file itself says how large a page is, or which hypercall converts memory."""
    for node in source(path)[1]:
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
            and OF_A_PAGE.fullmatch(node.id)
        ):
            yield f"{path}:{node.lineno}: {node.id}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, BY_PAGES):
            sides = {
                each.value for each in (node.left, node.right) if isinstance(each, ast.Constant)
            }
            if sides & {abi.PAGE_SIZE, abi.PAGE_SIZE - 1}:
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"


@each_room
def test_the_page_size_and_the_converting_hypercall_are_defined_once(room: list[Path]) -> None:
    assert [line for path in room if path != ABI for line in own_definitions(path)] == []


@pytest.mark.parametrize(
    ("home", "places"),
    [("pyvmm/hosts/kvm/kvm_abi.h", ["pyvmm"]), ("guest/include/protocol.h", ["guest", "firmware"])],
)
def test_c_defines_them_in_one_header_and_means_the_same(home: str, places: list[str]) -> None:
    define = re.compile(r"^\s*#\s*define\s+(PAGE_SIZE|\w*MAP_GPA_RANGE)\s+(\d+)", re.MULTILINE)
    found = [
        (str(path.relative_to(ROOT)), "PAGE_" in name, int(value))
        for place in places
        for path in sorted((ROOT / place).rglob("*.[chS]"))
        for name, value in define.findall(path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == [
        (home, False, abi.KVM_HC_MAP_GPA_RANGE),
        (home, True, abi.PAGE_SIZE),
    ]


LAYOUT = Path("pyvmm/memory/layout.py")
LOW_ADDRESSES = {
    layout.LOW_USABLE_END, layout.PVH_START_INFO, layout.PVH_MEMMAP, layout.FLAT_ENTRY,
    layout.BOOT_GDT,
}  # fmt: skip
FROM = layout.LOW_USABLE_END
"""From here on a number that ends in ten zero bits looks like an address."""
NO_ADDRESSES_OF_A_MACHINE = {
    "pyvmm/rules/abi.py": {0xFEC0_0000, 0xFEE0_0000},  # where the processor and KVM have APICs
    "pyvmm/hosts/registers.py": {0xFFFF_0000},  # of CS, after a reset
    "pyvmm/hosts/model/cpuid.py": {0x4000_0000, 0x8000_0000},  # leaves
    "pyvmm/hosts/model/guest_memory_access.py": {0x000F_FFFF_FFFF_F000, 0xFFFF_F000},  # masks
    "pyvmm/memory/mappings.py": {0x000F_FFFF_FFFF_F000},
    "pyvmm/memory/page_walk.py": {0x000F_FFFF_FFFF_F000},
    "pyvmm/net/topology_checks.py": {1280},  # bytes, of an MTU
    # QEMU's machines have these devices, ours does not.
    "pyvmm/compare/machines.py": {0xFED0_0000, 0xFF00_0000, 0xFEB0_0000},
}
"""Numbers that are no place in the guest-physical address space of a machine, or the hardware's."""
NO_SLOTS_OF_A_MACHINE = {"demo", "experiment", "lifetime", "replay", "shell"}
"""Rooms whose VMs are stories of their own."""


UNITS = {"MIB": layout.MIB, "GIB": layout.GIB, "PAGE_SIZE": abi.PAGE_SIZE}
PLACES = {
    value
    for value in vars(layout).values()
    if isinstance(value, int) and value > FROM and value & value - 1
}


def product(node: ast.BinOp) -> int | None:
    """The value of a number of units, or of a number shifted: `3 * GIB`, `3 << 30`."""
    match node:
        case ast.BinOp(ast.Constant(int(left)), ast.Mult(), ast.Name(unit)) if unit in UNITS:
            return left * UNITS[unit]
        case ast.BinOp(ast.Constant(int(left)), ast.LShift(), ast.Constant(int(right))):
            return left << right
    return None


def addresses(path: Path) -> Iterator[str]:
    """Numbers of a file that look like guest-physical addresses, and are not in the list."""
    nodes = source(path)[1]
    masks = {
        id(side)
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd)
        for side in (node.left, node.right)
    }
    known = NO_ADDRESSES_OF_A_MACHINE.get(str(path), set())
    for node in nodes:
        if isinstance(node, ast.BinOp) and product(node) in PLACES:
            yield f"{path}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and type(node.value) is int and id(node) not in masks:
            value = node.value
            is_one = (value >= FROM and value % 0x400 == 0) or value in LOW_ADDRESSES
            if is_one and value not in known:
                yield f"{path}:{node.lineno}: {value:#x}"


def slot_numbers(path: Path) -> Iterator[str]:
    """Numbers of a file that are given to a memslot."""
    for node in source(path)[1]:
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = (
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
            given = [each.value for each in node.keywords if each.arg == "slot"]
            if name in {"Memslot", "MemoryRegion", "MapSlot"}:
                given += node.args[:1]
        elif isinstance(node, ast.Assign) and "SLOT" in ast.unparse(node.targets[0]).split("_"):
            given = [node.value]
        for each in given:
            if isinstance(each, ast.Constant) and type(each.value) is int:
                yield f"{path}:{each.lineno}: {each.value}"


@each_room
def test_no_address_and_no_slot_is_a_number_outside_the_map(room: list[Path]) -> None:
    for path in room:
        if path != LAYOUT:
            assert list(addresses(path)) == []
        if path.parts[1] not in NO_SLOTS_OF_A_MACHINE:
            assert list(slot_numbers(path)) == []


@pytest.mark.parametrize("name", NO_ADDRESSES_OF_A_MACHINE)
def test_what_is_no_address_is_still_there(name: str) -> None:
    found = {node.value for node in source(Path(name))[1] if isinstance(node, ast.Constant)}
    assert found >= NO_ADDRESSES_OF_A_MACHINE[name]


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported_modules() -> dict[str, set[str]]:
    """For each module those that it imports, wherever in the file: for types, or late, too."""
    modules = {module_of(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found: set[str] = set()
        for node in source(path)[1]:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    found.add(name if name in modules else node.module)
        graph[module] = found & modules.keys() - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules of which each leads to all others of its group."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reached[start] = seen
    return {
        frozenset({other for other in seen if start in reached[other]} | {start})
        for start, seen in reached.items()
        if start in seen
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(imported_modules()) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset({"b", "c"})}


def test_what_people_hold_has_a_name_of_its_own() -> None:
    found = Counter(
        node.name for path in MODULES for node in source(path)[1] if isinstance(node, ast.ClassDef)
    )
    assert [found[name] for name in ("Machine", "GuestMemory", "AddressMap")] == [1, 1, 1]


def test_the_walk_sees_what_it_is_meant_to_see() -> None:
    # Were the lists above to miss the house, every test in this file would pass for nothing.
    assert len(MODULES) > 40
    assert sum(len(docstrings(source(path)[1])) for path in MODULES) > 2000
    assert sum(map(is_pure, MODULES)) > 20
    assert "trio" in {name.split(".")[0] for name in imports(Path("pyvmm/machine/running.py"))}
    assert len(list(own_definitions(ABI))) == 2
    assert sum(map(len, imported_modules().values())) > 1000
    assert len(list(addresses(LAYOUT))) > 10
    assert len(list(slot_numbers(Path("pyvmm/replay/guest.py")))) == 1
    assert set(sys.stdlib_module_names) | {"cffi", "trio", "rich"} >= EFFECTS
