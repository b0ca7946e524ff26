# SPDX-License-Identifier: MIT
"""One stream of lines of KTAP or TAP, to a tree of tests. Pure; raises for no line whatsoever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.testing.results.tap_lines import (
    BailOutLine,
    Flavour,
    PlanLine,
    PointLine,
    SubtestLine,
    VersionLine,
    indent_of,
    read_line,
)
from pyvmm.testing.results.tap_results import TapNode, TapStatus, status_of

MAX_DEPTH = 32
"""Levels of subtests; deeper lines are no TAP."""
MAX_RESULTS = 20_000
MAX_PROBLEMS = 50
KEPT_LINES = 60
"""Lines of output kept for a result: the last ones before it, and as many of those behind it."""
KEPT_COLUMNS = 1000


@dataclass(slots=True)
class _Group:
    """Tests of one level below one parent, while they come.

    `below` is a group that has ended, whose parent's result is due. `is_flat`: its lines are
    indented no more than its parent's.
    """

    indent: int
    flavour: Flavour
    name: str = ""
    is_flat: bool = False
    expected: int | None = None
    skip_reason: str | None = None
    nodes: list[TapNode] = field(default_factory=list)
    below: _Group | None = None
    bail_out: str | None = None

    @property
    def is_fresh(self) -> bool:
        return self.expected is None and not self.nodes and self.below is None

    @property
    def is_full(self) -> bool:
        return self.expected is not None and len(self.nodes) >= self.expected


class TapStream:
    """Tests that a stream of lines tells of. It begins with a version line."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._ended: list[_Group] = []
        self._open: list[_Group] = []
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._last: TapNode | None = None
        """The test whose result was the line before: a block of YAML may follow."""
        self._failed: TapNode | None = None
        """The last result, if it failed and the flavour has comments after results."""
        self._yaml_indent: int | None = None
        self._of_yaml: TapNode | None = None
        self._subtest: SubtestLine | None = None
        self._count = 0
        self._is_finished = False

    @property
    def has_begun(self) -> bool:
        """Tell whether a version line has come."""
        return bool(self._open or self._ended)

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing more is planned."""
        if len(self._open) != 1:
            return bool(self._ended) and not self._open
        root = self._open[0]
        return root.bail_out is not None or (root.is_full and root.below is None)

    def nodes(self) -> Iterator[TapNode]:
        """Tests of the first level; before `finish` with those of groups that have not ended."""
        for group in self._ended:
            yield from group.nodes
        if self._open:
            yield from self._so_far(0)

    def note(self, text: str) -> None:
        """Keep a line that is none of the stream's, as output before the next result."""
        if self.has_begun:
            self._lines.append(text[:KEPT_COLUMNS])

    def take(self, text: str) -> None:
        """Take a line."""
        if self._is_yaml(text):
            return
        flavour = self._open[-1].flavour if self._open else Flavour.KTAP
        line = read_line(text, flavour)
        has_given_up = not self._open or self._open[0].bail_out is not None
        if has_given_up and not isinstance(line, VersionLine):
            line = None
        last, self._last = self._last, None
        match line:
            case VersionLine():
                self._version(line)
            case PlanLine():
                self._plan(line)
            case PointLine():
                self._point(line)
            case SubtestLine():
                self._subtest = line
            case BailOutLine():
                self._bail_out(line)
            case None:
                self._other(text, last)

    def finish(self) -> None:
        """End of the stream: close what is open."""
        self._is_finished = True
        while self._open:
            self._close_document()

    # -- the kinds of lines --

    def _version(self, line: VersionLine) -> None:
        if self._open and self._open[0].bail_out is not None and line.indent == 0:
            self._close_document()
        self._close_deeper(line.indent)
        if not self._open:
            self._open.append(_Group(0, line.flavour))
            return
        top = self._open[-1]
        if line.indent > top.indent:
            self._push(line.indent, line.flavour)
        elif top.is_fresh:
            top.flavour = line.flavour
        elif top.expected is not None and not top.is_full and top.below is None:
            self._push(line.indent, line.flavour)
        elif len(self._open) == 1:
            self._close_document()
            self._open.append(_Group(0, line.flavour))
        else:
            self._pop()
            self._push(line.indent, line.flavour)

    def _plan(self, line: PlanLine) -> None:
        group = self._group_at(line.indent)
        if group.expected is None:
            group.expected, group.skip_reason = line.count, line.skip_reason
        elif group.expected != line.count:
            self._problem(f"a second plan, 1..{line.count} after 1..{group.expected}")

    def _point(self, line: PointLine) -> None:
        top = self._open[-1]
        if top.is_flat and top.is_full and line.indent == top.indent:
            self._pop()
        below = self._take_below(line.indent)
        group = self._group_at(line.indent)
        if below is not None and not _may_be_result_of(below, line.name):
            self._without_result(group, below)
            below = None
        self._add(group, line, below)

    def _bail_out(self, line: BailOutLine) -> None:
        self._close_deeper(line.indent)
        group = self._open[-1]
        group.bail_out = line.reason
        self._problem(f"the guest gave up: Bail out! {line.reason}".rstrip())

    def _other(self, text: str, last: TapNode | None) -> None:
        if text.strip() == "---" and last is not None and indent_of(text) > self._open[-1].indent:
            self._yaml_indent, self._of_yaml = indent_of(text), last
            return
        if not self._open:
            return
        self.note(text)
        if self._failed is not None and text.lstrip().startswith("#"):
            _append(self._failed, text)

    def _is_yaml(self, text: str) -> bool:
        """Take a line of a block of YAML; one that is indented less ends the block."""
        if self._yaml_indent is None:
            return False
        stripped = text.strip()
        if stripped and indent_of(text) < self._yaml_indent:
            self._yaml_indent = None
            return False
        if stripped == "..." and indent_of(text) == self._yaml_indent:
            self._yaml_indent = None
        elif self._of_yaml is not None:
            _append(self._of_yaml, text)
        return True

    # -- groups --

    def _group_at(self, indent: int) -> _Group:
        """The group that a line with this indentation belongs to."""
        self._close_deeper(indent)
        top = self._open[-1]
        subtest, self._subtest = self._subtest, None
        if indent > top.indent:
            return self._push(indent, top.flavour, subtest.name if subtest else "")
        is_new = len(self._open) > 1 and not top.name and not top.nodes
        if is_new and subtest is not None and subtest.indent == indent:
            top.name = subtest.name
        return top

    def _push(self, indent: int, flavour: Flavour, name: str = "") -> _Group:
        top = self._open[-1]
        if top.below is not None:
            below, top.below = top.below, None
            self._without_result(top, below)
        if self._subtest is not None and self._subtest.indent < indent:
            # TAP 14 names a subtest before it begins, KUnit at its beginning.
            name, self._subtest = self._subtest.name, None
        if len(self._open) >= MAX_DEPTH:
            return top
        group = _Group(indent, flavour, name, is_flat=indent <= top.indent)
        self._open.append(group)
        return group

    def _take_below(self, indent: int) -> _Group | None:
        """The group that has ended, or ends now, and whose parent a result at `indent` is."""
        self._close_deeper(indent)
        top = self._open[-1]
        below, top.below = top.below, None
        return below

    def _close_deeper(self, indent: int) -> None:
        while len(self._open) > 1 and self._open[-1].indent > indent:
            self._pop()

    def _pop(self) -> None:
        group = self._open.pop()
        self._end(group)
        parent = self._open[-1]
        if parent.below is not None:
            self._without_result(parent, parent.below)
        parent.below = group

    def _close_document(self) -> None:
        while len(self._open) > 1:
            self._pop()
        root = self._open.pop()
        self._end(root)
        if root.nodes or not self._ended:
            self._ended.append(root)
        self._subtest = None

    def _end(self, group: _Group) -> None:
        """No more comes for `group`: what was planned and is not there has crashed."""
        if group.below is not None:
            below, group.below = group.below, None
            self._without_result(group, below)
        count = len(group.nodes)
        expected = group.expected
        if expected is None:
            return
        if count > expected:
            where = f" of {group.name}" if group.name else ""
            self._problem(f"{count} results{where}, but a plan of {expected}")
        elif not count and not expected and group.skip_reason is not None:
            if not self._open:
                node = TapNode("all tests", 1, TapStatus.SKIPPED, group.skip_reason)
                self._append_node(group, node)
        elif count < expected:
            numbers = f"{count + 1}" if count + 1 == expected else f"{count + 1}..{expected}"
            reason = "planned, but no result came"
            if group.bail_out is not None:
                reason = f"bailed out: {group.bail_out}".rstrip(": ")
            node = TapNode(f"missing {numbers}", count + 1, TapStatus.CRASHED, reason)
            self._append_node(group, node)

    # -- tests --

    def _add(self, group: _Group, line: PointLine, below: _Group | None) -> None:
        due = len(group.nodes) + 1
        number = due if line.number is None else line.number
        if number != due:
            self._problem(f"result {number} ({line.name}) where {due} was due")
        name = line.name or (below.name if below is not None else "")
        node = TapNode(name, number, status_of(line.is_ok, line.directive), line.comment)
        if below is not None:
            node.children = below.nodes
            if not below.nodes and node.status is TapStatus.PASSED:
                if below.skip_reason is not None:
                    node.status, node.reason = TapStatus.SKIPPED, below.skip_reason
                else:
                    node.status, node.reason = TapStatus.FAILED, "no tests ran in it"
        if not self._append_node(group, node):
            return
        self._last = node
        has_comments_after = group.flavour is not Flavour.KTAP and node.status.is_failure
        self._failed = node if has_comments_after else None

    def _without_result(self, group: _Group, below: _Group) -> None:
        """Add the parent of `below`, whose own result did not come."""
        name = below.name or f"test {len(group.nodes) + 1}"
        node = TapNode(name, len(group.nodes) + 1, TapStatus.CRASHED, "its result did not come")
        node.children = below.nodes
        self._append_node(group, node)

    def _append_node(self, group: _Group, node: TapNode) -> bool:
        """Add a test, with the output since the one before; False where there are too many."""
        if self._count >= MAX_RESULTS:
            if self._count == MAX_RESULTS:
                self._problem(f"more than {MAX_RESULTS} results: the rest is not looked at")
                self._count += 1
            return False
        self._count += 1
        node.lines = list(self._lines)
        if not self._is_finished:  # At the end all that is missing is so for the same reason.
            self._lines.clear()
        group.nodes.append(node)
        return True

    def _so_far(self, level: int) -> list[TapNode]:
        """Tests of an open group, and those below it under parents that have not ended."""
        group = self._open[level]
        nodes = list(group.nodes)
        if group.below is not None and group.below.nodes:
            nodes.append(_unfinished(group.below.name, group.below.nodes))
        if level + 1 < len(self._open):
            below = self._so_far(level + 1)
            if below:
                nodes.append(_unfinished(self._open[level + 1].name, below))
        return nodes

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def _may_be_result_of(below: _Group, name: str) -> bool:
    """Tell whether a result called `name` may be that of the group's parent: names can lack."""
    return not below.name.strip() or not name.strip() or below.name.strip() == name.strip()


def _unfinished(name: str, below: list[TapNode]) -> TapNode:
    return TapNode(name or "?", 0, TapStatus.PASSED, children=below)


def _append(node: TapNode, text: str) -> None:
    if len(node.lines) < 2 * KEPT_LINES:
        node.lines.append(text[:KEPT_COLUMNS])
