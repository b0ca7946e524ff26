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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
TWINS = {
    "Control": "steering",
    "Console": "console.console",
    "MachineVcpu": "vcpus",
    "Events": "events",
    "MachineNetwork": "machine_network",
}
"""Classes that have a twin, and the modules of `pyvmm.machine` they are in."""
_MACHINE = "machine"
_HEAD = '''# SPDX-License-Identifier: MIT
"""The blocking twins of a machine's objects. Made by `generate_blocking`: not to be edited."""
'''
_MANAGERS = {"contextmanager": "Iterator", "asynccontextmanager": "AsyncIterator"}


@dataclass(frozen=True, slots=True)
class Twins:
    """Classes of one room, and the twins to be made of them.

    `classes` are in these modules of `package`; `name` gives a twin's name; `task` is the type of
    what calls into the loop, from `task_module`. With `adds_timeout` a coroutine's twin takes a
    `timeout` more: else it has one itself.
    """

    package: str
    classes: Mapping[str, str]
    head: str
    name: Callable[[str], str]
    task: str
    task_module: str
    adds_timeout: bool
    others: Mapping[str, str]
    """Further names that are used, and the modules of `package` that have them."""
    first: str = ""
    """Lines before the classes."""

    def tree(self, module: str) -> ast.Module:
        """Parse a module of the package."""
        path = _PACKAGE.joinpath(*self.package.split(".")[1:], *module.split("."))
        return ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))

    def generated(self, more: str = "") -> str:
        """Return the module's text, with `more` at its end; ``ruff format`` lays it out."""
        lines = (
            line
            for name, module in self.classes.items()
            for line in _twin(self, _class(self.tree(module), name))
        )
        parts = [*(["", "", self.first] if self.first else []), *lines, *([more] if more else [])]
        body = "\n".join(parts)
        return "\n".join((self.head.rstrip("\n"), *_imports(self, body))).rstrip("\n") + body + "\n"


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


def _method(twins: Twins, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    assert node.returns is not None
    returns = ast.unparse(node.returns)
    doc = _docstring(node)
    decorators = _decorators(node)
    managed = next((name for name in _MANAGERS if name in decorators), None)
    call = _call(node)
    bound = call if "," not in call else f"partial({call})"
    if "property" in decorators:
        made = returns in twins.classes
        kind = twins.name(returns) if made else returns
        yield from _lines("@property", f"def {node.name}(self) -> {kind}:", doc)
        yield (
            f"        return self._{node.name}"
            if made
            else f"        return self._inner.{node.name}"
        )
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
        arguments = _timed(node) if twins.adds_timeout else ast.unparse(node.args)
        yield from _lines(f"def {node.name}({arguments}) -> {returns}:", doc)
        result = f"self._task.call({bound}{', timeout' if twins.adds_timeout else ''})"
    else:
        yield from _lines(f"def {node.name}({ast.unparse(node.args)}) -> {returns}:", doc)
        result = f"self._task.now({bound})"
    yield f"        {result}" if returns == "None" else f"        return {result}"


def _timed(node: ast.AsyncFunctionDef) -> str:
    """The arguments, and a `timeout` more."""
    timed = ast.parse(f"def f({ast.unparse(node.args)}): pass").body[0]
    assert isinstance(timed, ast.FunctionDef)
    seconds = ast.parse("float | None", mode="eval").body
    timed.args.kwonlyargs.append(ast.arg("timeout", seconds))
    timed.args.kw_defaults.append(ast.Constant(None))
    return ast.unparse(timed.args)


def _lines(*parts: str) -> Iterator[str]:
    """Decorators and head, then the docstring as it was."""
    *heads, doc = parts
    yield ""
    yield from (f"    {head}" for head in heads)
    yield f'        """{doc}"""'


def _twin(twins: Twins, node: ast.ClassDef) -> Iterator[str]:
    methods = [
        one
        for one in node.body
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_")
    ]
    name = twins.name(node.name)
    yield from ("", "", f"class {name}:", f'    """{_docstring(node)}"""', "")
    yield f"    def __init__(self, task: {twins.task}, inner: {node.name}) -> None:"
    yield "        self._task = task"
    yield "        self._inner = inner"
    for method in methods:
        kind = "" if method.returns is None else ast.unparse(method.returns)
        if "property" in _decorators(method) and kind in twins.classes:
            made = f"{twins.name(kind)}(task, inner.{method.name})"
            yield f"        self._{method.name} = {made}"
    for method in methods:
        yield from _method(twins, method)


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


def _origins(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Every name that a module defines or imports, and where it is from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.module or "") for alias in node.names)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, module
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, module


def _imports(twins: Twins, body: str) -> Iterator[str]:
    """Yield the imports that the twins need, in isort's order."""
    known = {
        "partial": "functools",
        "contextmanager": "contextlib",
        "dataclass": "dataclasses",
        "Iterator": "collections.abc",
        twins.task.partition("[")[0]: twins.task_module,
        **{name: f"{twins.package}.{module}" for name, module in twins.others.items()},
    }
    typing: set[str] = set()
    for module in (*twins.others.values(), *twins.classes.values()):
        tree = twins.tree(module)
        known = dict(_origins(tree, f"{twins.package}.{module}")) | known
        typing |= _only_for_types(tree)
    needed: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Name) and node.id in known and not node.id.startswith("_"):
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


def _only_for_types(tree: ast.Module) -> set[str]:
    """Modules that are imported for annotations alone."""
    return {
        node.module or ""
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }


def _isort(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


MACHINES = Twins(
    package="pyvmm.machine",
    classes=TWINS,
    head=_HEAD,
    name="Blocking{}".format,
    task="LoopTask[Machine]",
    task_module="pyvmm.machine.loop_thread",
    adds_timeout=True,
    others={"Machine": "machine"},
)


def generated() -> str:
    """Return the text of `blocking_objects`; ``ruff format`` lays it out."""
    return MACHINES.generated("\n".join(_machine(_class(MACHINES.tree(_MACHINE), "Machine"))))


if __name__ == "__main__":
    sys.stdout.write(generated())
