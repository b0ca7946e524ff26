# SPDX-License-Identifier: MIT
"""Lines of KTAP and TAP: which of their kinds a line is. Pure.

Sources: KTAP, linux Documentation/dev-tools/ktap.rst; TAP, testanything.org's specifications of
versions 13 and 14; where they leave a choice, tools/testing/kunit/kunit_parser.py in linux, and
kselftest's runner, which puts "# " before what the programs say that it runs.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

TAB = 4
"""Columns of a tab: older versions of KUnit indent a level by one."""
_MOST_DIGITS = 9
_MOST_HASHES = 64
"""Times that "# " before a line is cut off."""
_MOST_COLUMNS = 4096
"""Letters of a line that are looked at."""

_VERSION = re.compile(r"(?P<kernel>K?)TAP version (?P<number>\d{1,9})\s*$")
_PLAN = re.compile(rf"1\.\.(?P<count>\d{{1,{_MOST_DIGITS}}})\s*(?:#\s*(?P<comment>.*))?$")
_POINT = re.compile(
    rf"(?P<verdict>not ok|ok)(?:\s+(?P<number>\d{{1,{_MOST_DIGITS}}}))?(?P<rest>\s.*|)$"
)
_DASH = re.compile(r"\s*(?:-(?:\s+|$))?")
_HASH = re.compile(r"(?:^|\s)#\s*")
"""Behind the name of a result; in TAP one that is part of it has a backslash before it."""
_KERNEL_DIRECTIVE = re.compile(r"(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b[:\s]*(.*)$")
_TAP_DIRECTIVE = re.compile(r"(?:(skip)\S*|(todo)\b)[:\s]*(.*)$", re.IGNORECASE)
_BAIL_OUT = re.compile(r"Bail out!\s*(.*)$", re.IGNORECASE)
_SUBTEST = re.compile(r"#\s*Subtest(?::(.*))?$")
"""Of a line without blanks at its end."""
_ESCAPED = re.compile(r"\\([#\\])")


class Flavour(enum.Enum):
    """Version that a document says it is of."""

    KTAP = "KTAP"
    TAP13 = "TAP 13"
    TAP14 = "TAP 14"


class Directive(enum.Enum):
    """Keyword behind the hash sign of a result."""

    SKIP = "SKIP"
    TODO = "TODO"
    XFAIL = "XFAIL"
    TIMEOUT = "TIMEOUT"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class VersionLine:
    """``KTAP version 1``; `indent` of this and the others in columns."""

    indent: int
    flavour: Flavour


@dataclass(frozen=True, slots=True)
class PlanLine:
    """``1..N``, and whether a comment says that all is skipped (`skip_reason` is None if not)."""

    indent: int
    count: int
    skip_reason: str | None


@dataclass(frozen=True, slots=True)
class PointLine:
    """A result. `comment` is all that follows the hash sign but the directive."""

    indent: int
    is_ok: bool
    number: int | None
    name: str
    directive: Directive | None
    comment: str


@dataclass(frozen=True, slots=True)
class SubtestLine:
    """``# Subtest: NAME``."""

    indent: int
    name: str


@dataclass(frozen=True, slots=True)
class BailOutLine:
    """``Bail out! REASON``."""

    indent: int
    reason: str


TapLine = VersionLine | PlanLine | PointLine | SubtestLine | BailOutLine


def find_version(text: str) -> tuple[int, Flavour] | None:
    """Find a version line, whatever stands before it: the column where it begins, and which."""
    match = _VERSION.search(text)
    if match is None:
        return None
    if match["kernel"]:
        return match.start(), Flavour.KTAP
    return match.start(), Flavour.TAP14 if int(match["number"]) >= 14 else Flavour.TAP13


def indent_of(text: str) -> int:
    """Count the columns of blanks before the first letter."""
    expanded = text.expandtabs(TAB)
    return len(expanded) - len(expanded.lstrip(" "))


def read_line(text: str, flavour: Flavour) -> TapLine | None:
    """Tell what kind of line `text` (without its end) is; None for what is no TAP at all.

    "# " before a line of TAP is taken for two columns of indentation.
    """
    text = text[:_MOST_COLUMNS]
    indent = indent_of(text)
    body = text.strip()
    subtest = _SUBTEST.match(body)
    if subtest:
        return SubtestLine(indent, unescaped((subtest[1] or "").strip(), flavour))
    prefixed = False
    for _ in range(_MOST_HASHES):
        if not body.startswith("# "):
            break
        inner = body[2:]
        indent += 2 + indent_of(inner)
        body = inner.strip()
        prefixed = True
        subtest = _SUBTEST.match(body)
        if subtest:
            return SubtestLine(indent, unescaped((subtest[1] or "").strip(), flavour))
    found = _structure(body, indent, flavour)
    if prefixed and isinstance(found, PointLine) and found.number is None:
        return None
    return found


def unescaped(name: str, flavour: Flavour) -> str:
    """`name` without TAP's backslashes before hash signs and backslashes; KTAP has none."""
    return name if flavour is Flavour.KTAP else _ESCAPED.sub(r"\1", name)


def _structure(body: str, indent: int, flavour: Flavour) -> TapLine | None:
    version = find_version(body)
    if version is not None and version[0] == 0:
        return VersionLine(indent, version[1])
    plan = _PLAN.match(body)
    if plan:
        return PlanLine(indent, int(plan["count"]), _skip_reason(plan["comment"]))
    bail_out = _BAIL_OUT.match(body)
    if bail_out:
        return BailOutLine(indent, bail_out[1].strip())
    return _point(body, indent, flavour)


def _skip_reason(comment: str | None) -> str | None:
    match = _TAP_DIRECTIVE.match(comment or "")
    return match[3].strip() if match and match[1] else None


def _point(body: str, indent: int, flavour: Flavour) -> PointLine | None:
    match = _POINT.match(body)
    if match is None or (match["number"] is None and flavour is Flavour.KTAP):
        return None
    rest = match["rest"]
    rest = rest[_dash_end(rest) :]
    directive, comment = None, ""
    hash_sign = _HASH.search(rest)
    if hash_sign:
        comment = rest[hash_sign.end() :].strip()
        rest = rest[: hash_sign.start()]
        directive, comment = _directive(comment, flavour)
    number = int(match["number"]) if match["number"] is not None else None
    name = unescaped(rest.strip(), flavour)
    return PointLine(indent, match["verdict"] == "ok", number, name, directive, comment)


def _dash_end(rest: str) -> int:
    match = _DASH.match(rest)
    return match.end() if match else 0


def _directive(comment: str, flavour: Flavour) -> tuple[Directive | None, str]:
    match = _KERNEL_DIRECTIVE.match(comment)
    if match:
        return Directive(match[1]), match[2].strip()
    match = _TAP_DIRECTIVE.match(comment) if flavour is not Flavour.KTAP else None
    if match:
        return Directive.SKIP if match[1] else Directive.TODO, match[3].strip()
    return None, comment
