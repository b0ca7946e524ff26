# SPDX-License-Identifier: MIT
"""The text of a matrix file, TOML, as a `Matrix`. Unknown keys are refused (docs/matrix.md)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

from pyvmm.errors import UsageError
from pyvmm.memory.layout import MIN_MEMORY
from pyvmm.memory.sizes import size_of, size_text
from pyvmm.rules.abi import KVM_MEM_MAX_NR_PAGES, PAGE_SIZE
from pyvmm.testing.boot_defaults import DEFAULT_MEMORY, DEFAULT_TIMEOUT
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.plan import (
    Axes,
    End,
    Expectation,
    Matrix,
    Override,
    PlannedImage,
    Selection,
    Strictness,
    check_effect,
    compiled,
)
from pyvmm.toml_table import Mistake, Table, nearest, text_of

_MEMORY_MAX = KVM_MEM_MAX_NR_PAGES * PAGE_SIZE
"""Bytes that a memslot may have."""
_CPUS_MAX = 255
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}", re.ASCII)
"""Name of an image: a part of names of files, too."""
_AXES = ("memory", "cpus", "hosts")
_EXPECTED = ("end", "status", "console", "regex", "absent")
_STATUS_MAX = 63
_HOSTS = {host.value: host for host in HostName if host is not HostName.AUTO}


def parse_matrix(text: str, name: str) -> Matrix:
    """Make a matrix of a file's `text`; `name` is the file's, for messages.

    Raises `UsageError` for whatever is wrong with it.
    """
    attempt = f"read the matrix {name}"
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise UsageError(attempt, "it is nested too deeply", "a matrix has tables in it") from None
    except ValueError as error:  # TOMLDecodeError, and numbers that Python finds too long
        raise UsageError(attempt, f"it is no TOML: {error}", "mend that") from None
    try:
        matrix = _matrix(Table("the file", content))
    except Mistake as wrong:
        raise UsageError(attempt, wrong.cause, wrong.remedy) from None
    check_effect(matrix, name)
    return matrix


def _matrix(table: Table) -> Matrix:
    table.knows(*_AXES, "timeout", "image", "exclude", "expect")
    memory, cpus, hosts = _axis_values(table)
    timeout = table.seconds("timeout") or DEFAULT_TIMEOUT
    images = [
        _image(one, memory or (DEFAULT_MEMORY,), cpus or (1,), hosts, timeout)
        for one in table.tables("image")
    ]
    if not images:
        raise Mistake("it has no images", 'add [[image]] with path = "..."')
    seen: set[str] = set()
    for one in images:
        if one.name in seen:
            raise Mistake(f"two images are called {one.name}", "give one of them another name")
        seen.add(one.name)
    known = _Known(images)
    return Matrix(
        tuple(images),
        tuple(_exclusion(one, known) for one in table.tables("exclude")),
        tuple(_override(one, known) for one in table.tables("expect")),
    )


# -- what a file says of images, exclusions and expectations --


def _axis_values(
    table: Table,
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None, tuple[HostName, ...] | None]:
    return (
        table.values("memory", _size, size_text),
        table.values("cpus", _cpus, str),
        table.values("hosts", _host, lambda one: one.value),
    )


def _image(
    table: Table,
    memory: tuple[int, ...],
    cpus: tuple[int, ...],
    hosts: tuple[HostName, ...] | None,
    timeout: float,
) -> PlannedImage:
    table.knows("name", "path", "append", "initrd", "input", "private", "timeout", "expect", *_AXES)
    path = table.text("path")
    if not path:
        raise Mistake(f"{table.place} has no path", "give it a file, or a bundled guest's name")
    name = table.text("name") or path.rpartition("/")[2].removesuffix(".img")
    if not _NAME.fullmatch(name):
        raise Mistake(
            f"{table.place}: {name!r} cannot be a name",
            'give it a name of letters, digits and ._+=- (name = "...")',
        )
    expect = table.table("expect")
    expect.knows(*_EXPECTED)
    own_memory, own_cpus, own_hosts = _axis_values(table)
    hosts = own_hosts or hosts
    if hosts is None:
        raise Mistake(
            f"it has no hosts for the image {name}", f"add hosts = [...], of {', '.join(_HOSTS)}"
        )
    return PlannedImage(
        name,
        path,
        Axes(own_memory or memory, own_cpus or cpus, hosts),
        append=table.text("append") or "",
        initrd=table.text("initrd"),
        typed=table.text("input") or "",
        private=table.flag("private"),
        timeout=table.seconds("timeout") or timeout,
        expect=_expected(expect),
    )


class _Known:
    """Values that the images have: another one in a selection is a mistake."""

    def __init__(self, images: Iterable[PlannedImage]) -> None:
        images = tuple(images)
        self.images = dict.fromkeys(one.name for one in images)
        self.memory = dict.fromkeys(each for one in images for each in one.axes.memory)
        self.cpus = dict.fromkeys(each for one in images for each in one.axes.cpus)
        self.hosts = dict.fromkeys(each for one in images for each in one.axes.hosts)


def _selection(table: Table, known: _Known) -> Selection:
    chosen = Selection(
        table.chosen("images", text_of, known.images, str),
        table.chosen("memory", _size, known.memory, size_text),
        table.chosen("cpus", _cpus, known.cpus, str),
        table.chosen("hosts", _host, known.hosts, lambda one: one.value),
    )
    if chosen == Selection():
        raise Mistake(
            f"{table.place} is about every combination",
            "say which, by images, memory, cpus or hosts",
        )
    return chosen


def _exclusion(table: Table, known: _Known) -> Selection:
    table.knows("images", *_AXES, "reason")
    table.text("reason")
    return _selection(table, known)


def _override(table: Table, known: _Known) -> Override:
    table.knows("images", *_AXES, *_EXPECTED, "fails", "may_fail")
    selection = _selection(table, known)
    expect = _expected(table)
    reasons = {
        strictness: reason
        for key, strictness in (("fails", Strictness.FAILS), ("may_fail", Strictness.MAY_FAIL))
        if (reason := table.text(key)) is not None
    }
    if len(reasons) > 1:
        raise Mistake(f"{table.place} has both fails and may_fail", "leave one of them out")
    for strictness, reason in reasons.items():
        if not reason.strip():
            raise Mistake(f"{table.place} gives no reason", 'say why: fails = "..."')
        expect = Expectation(
            expect.end, expect.status, expect.console, expect.regex, expect.absent,
            strictness, reason,
        )  # fmt: skip
    if expect == Expectation():
        raise Mistake(
            f"{table.place} expects nothing",
            f"give it one of {', '.join(_EXPECTED)}, fails, may_fail",
        )
    return Override(selection, expect)


def _expected(table: Table) -> Expectation:
    end = table.value("end", _end)
    status = table.value("status", _status)
    if status is not None and end not in {None, End.EXITED}:
        raise Mistake(
            f"{table.place} expects the end {end.value if end else ''} and a status",
            "leave the status out: only a guest that exited has one",
        )
    console, regex = table.texts("console"), table.texts("regex", _pattern)
    if end is End.CONSOLE and not console and not regex:
        raise Mistake(
            f"{table.place} expects the end console and says nothing of the console",
            "give it console or regex",
        )
    return Expectation(end, status, console, regex, table.texts("absent"))


# -- values --


def _pattern(value: object) -> str:
    text = text_of(value)
    try:
        compiled(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression ({error})") from None
    return text


def _size(value: object) -> int:
    # A bare number might be bytes or MiB.
    size = size_of(value) if isinstance(value, str) and not value.isdecimal() else None
    if size is None:
        raise ValueError('no size ("64M", "2G")')
    if size % PAGE_SIZE:
        raise ValueError(f"no multiple of a page, {size_text(PAGE_SIZE)}")
    if size < MIN_MEMORY:
        raise ValueError(f"less than a guest can have, {size_text(MIN_MEMORY)}")
    if size > _MEMORY_MAX:
        raise ValueError(f"more than a guest can have, {_MEMORY_MAX >> 30}G")
    return size


def _whole(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"no whole number from {least} to {most}")
    return value


def _cpus(value: object) -> int:
    return _whole(value, 1, _CPUS_MAX)


def _status(value: object) -> int:
    return _whole(value, 0, _STATUS_MAX)


def _host(value: object) -> HostName:
    if isinstance(value, str) and value in _HOSTS:
        return _HOSTS[value]
    raise ValueError(f"no host{nearest(value, _HOSTS)}; hosts are {', '.join(_HOSTS)}")


def _end(value: object) -> End:
    ends = {end.value: end for end in End}
    if isinstance(value, str) and value in ends:
        return ends[value]
    raise ValueError(f"no end{nearest(value, ends)}; ends are {', '.join(ends)}")
