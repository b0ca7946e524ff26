# SPDX-License-Identifier: MIT
"""``python -m pyvmm.machine.generate_blocking``: makes the blocking twins of a machine's objects.

Each public method of an asynchronous class becomes one that does the same in the machine's loop
(`LoopTask`) and blocks: a coroutine takes a `timeout` more, a context manager is entered and left
there, a property is read as it is. ``make blocking`` writes them to `blocking_objects`, and a test
compares.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_HERE = Path(__file__).parent
TWINS = {
    "Control": "steering",
    "Console": "console.console",
    "MachineVcpu": "vcpus",
    "Events": "events",
}
"""Classes that have a twin, and the modules of `pyvmm.machine` they are in."""
_MACHINE = "machine"
_HEAD = '''# SPDX-License-Identifier: MIT
"""The blocking twins of a machine's objects. Made by `generate_blocking`: not to be edited."""
'''
_MANAGERS = {"contextmanager": "Iterator", "asynccontextmanager": "AsyncIterator"}


def _tree(module: str) -> ast.Module:
    path = _HERE.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node, clean=False)
    assert text is not None, f"{node.name} has no docstring"
    return text


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {one.id for one in node.decorator_list if isinstance(one, ast.Name)}


def _call(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the inner method and this one's arguments, as `partial` takes them."""
    positional = [one.arg for one in node.args.args[1:]]
    named = [f"{one.arg}={one.arg}" for one in node.args.kwonlyargs]
    return ", ".join((f"self._inner.{node.name}", *positional, *named))


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    assert node.returns is not None
    returns = ast.unparse(node.returns)
    doc = _docstring(node)
    decorators = _decorators(node)
    managed = next((name for name in _MANAGERS if name in decorators), None)
    call = _call(node)
    bound = call if "," not in call else f"partial({call})"
    if "property" in decorators:
        yield from _lines("@property", f"def {node.name}(self) -> {returns}:", doc)
        yield f"        return self._inner.{node.name}"
        return
    if managed is not None:
        inside = returns.removeprefix(_MANAGERS[managed])
        head = f"def {node.name}({ast.unparse(node.args)}) -> Iterator{inside}:"
        name, _, arguments = call.partition(", ")
        yield from _lines("@contextmanager", head, doc)
        yield f"        with self._task.entered({name}({arguments})) as value:"
        yield "            yield value"
        return
    if isinstance(node, ast.AsyncFunctionDef):
        timed = ast.parse(f"def f({ast.unparse(node.args)}): pass").body[0]
        assert isinstance(timed, ast.FunctionDef)
        seconds = ast.parse("float | None", mode="eval").body
        timed.args.kwonlyargs.append(ast.arg("timeout", seconds))
        timed.args.kw_defaults.append(ast.Constant(None))
        yield from _lines(f"def {node.name}({ast.unparse(timed.args)}) -> {returns}:", doc)
        result = f"self._task.call({bound}, timeout)"
    else:
        yield from _lines(f"def {node.name}({ast.unparse(node.args)}) -> {returns}:", doc)
        result = f"self._task.now({bound})"
    yield f"        {result}" if returns == "None" else f"        return {result}"


def _lines(*parts: str) -> Iterator[str]:
    """Decorators and head, then the docstring as it was."""
    *heads, doc = parts
    yield ""
    yield from (f"    {head}" for head in heads)
    yield f'        """{doc}"""'


def _twin(node: ast.ClassDef) -> Iterator[str]:
    yield from ("", "", f"class Blocking{node.name}:", f'    """{_docstring(node)}"""', "")
    yield f"    def __init__(self, task: LoopTask[Machine], inner: {node.name}) -> None:"
    yield "        self._task = task"
    yield "        self._inner = inner"
    for method in node.body:
        match method:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) if not name.startswith("_"):
                yield from _method(method)


def _machine(node: ast.ClassDef) -> Iterator[str]:
    """The machine itself, and the function that makes it of an asynchronous one."""
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    made: list[str] = []
    yield from ("", "", "@dataclass(frozen=True, slots=True, eq=False)")
    yield from (f"class Blocking{node.name}:", f'    """{_docstring(node)}"""', "")
    for field in fields:
        assert isinstance(field.target, ast.Name)
        name, kind = field.target.id, ast.unparse(field.annotation)
        of_many = kind.removeprefix("tuple[").removesuffix(", ...]")
        if kind in TWINS:
            made.append(f"Blocking{kind}(task, machine.{name})")
            kind = f"Blocking{kind}"
        elif of_many in TWINS:
            made.append(f"tuple(Blocking{of_many}(task, one) for one in machine.{name})")
            kind = f"tuple[Blocking{of_many}, ...]"
        else:
            made.append(f"machine.{name}")
        yield f"    {name}: {kind}"
    yield from (
        "",
        "",
        "def blocking(task: LoopTask[Machine]) -> BlockingMachine:",
    )
    yield '    """The twin of the machine that `task` holds."""'
    yield "    machine = task.value"
    yield f"    return BlockingMachine({', '.join(made)})"


def _origins(module: str) -> Iterator[tuple[str, str]]:
    """Every name that a module of the machine's defines or imports, and where it is from."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.module or "") for alias in node.names)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, f"pyvmm.machine.{module}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, f"pyvmm.machine.{module}"


def _imports(body: str) -> Iterator[str]:
    """Yield the imports that the twins need, in isort's order."""
    known = {
        "partial": "functools",
        "contextmanager": "contextlib",
        "dataclass": "dataclasses",
        "Iterator": "collections.abc",
        "LoopTask": "pyvmm.machine.loop_thread",
        "Machine": "pyvmm.machine.machine",
    }
    typing: set[str] = set()
    for module in (_MACHINE, *TWINS.values()):
        known = dict(_origins(module)) | known
        typing |= _only_for_types(module)
    needed: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Name) and node.id in known:
            needed.setdefault(known[node.id], set()).add(node.id)
    late = {module for module in needed if module in typing}
    ours = {module for module in needed if module.startswith("pyvmm.")} - late
    theirs = needed.keys() - ours - late
    if late:
        needed["typing"] = {"TYPE_CHECKING"}
        theirs.add("typing")
    yield from ("", "from __future__ import annotations", "")
    for group, indent in ((theirs, ""), (ours, ""), (late, "    ")):
        if indent and group:
            yield "if TYPE_CHECKING:"
        for module in sorted(group):
            names = ", ".join(sorted(needed[module], key=_isort))
            yield f"{indent}from {module} import {names}"
        yield ""


def _only_for_types(module: str) -> set[str]:
    """Modules that a module of the machine's imports for its annotations alone."""
    return {
        node.module or ""
        for block in _tree(module).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }


def _isort(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def generated() -> str:
    """Return the module's text; ``ruff format`` lays it out."""
    twins: Iterable[str] = (
        line for name, module in TWINS.items() for line in _twin(_class(_tree(module), name))
    )
    body = "\n".join((*twins, *_machine(_class(_tree(_MACHINE), "Machine"))))
    return "\n".join((_HEAD.rstrip("\n"), *_imports(body))).rstrip("\n") + body + "\n"


if __name__ == "__main__":
    sys.stdout.write(generated())
