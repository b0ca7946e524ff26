# SPDX-License-Identifier: MIT
"""Hosts, memory sizes and CPUs that a test runs with: by its mark and by the command line.

``@pytest.mark.pyvmm(hosts=["kvm", "qemu-tcg"], memory=["64M", "1G"], cpus=[1, 2])`` makes a test of
each combination; a mark of a class or module holds where a nearer one does not say it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING

import pytest

from pyvmm.errors import UsageError
from pyvmm.memory.sizes import size_of, size_text
from pyvmm.testing.drivers.driver import CannotError
from pyvmm.testing.drivers.monitors import HostName

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

    from pyvmm.testing.request import BootArguments

MARK = "pyvmm"
AXES = "pyvmm_axes"
"""Name of the fixture that gives a test its combination, and of an item's attribute that does."""
_ORDER = {host: place for place, host in enumerate(HostName)}
_WORDS = ("hosts", "memory", "cpus")
_KNOWN = f"there are {', '.join(host.value for host in HostName)}"


@dataclass(frozen=True, slots=True)
class Axes:
    """One combination: `memory` in bytes; None where a boot says it, or nobody."""

    host: HostName = HostName.AUTO
    memory: int | None = None
    cpus: int | None = None

    def arguments(self) -> BootArguments:
        """Arguments of a boot that does not say them itself."""
        said: BootArguments = {"host": self.host}
        if self.memory is not None:
            said["memory"] = self.memory
        if self.cpus is not None:
            said["cpus"] = self.cpus
        return said


@dataclass(frozen=True, slots=True)
class MarkWords:
    """Words of the marks of a test together; None where none says it."""

    hosts: tuple[HostName, ...] | None = None
    memory: tuple[int, ...] | None = None
    cpus: tuple[int, ...] | None = None


def axes_of(item: pytest.Item) -> Axes | None:
    """The combination that `item` is for; None where nobody asked for any."""
    callspec = getattr(item, "callspec", None)
    axes = getattr(item, AXES, None) if callspec is None else callspec.params.get(AXES)
    return axes if isinstance(axes, Axes) else None


def is_for_lab(item: pytest.Item) -> bool:
    """Tell whether `item` runs in the lab."""
    axes = axes_of(item)
    return axes is not None and axes.host is HostName.LAB


def hosts_option(text: str) -> tuple[str, ...]:
    """Read ``HOST[,HOST]`` of the command line: values of `HostName`.

    Raises `argparse.ArgumentTypeError` for what is no host. They stay text: workers of
    pytest-xdist are sent the options, and only of plain types.
    """
    try:
        return tuple(host.value for host in _hosts(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error.cause}; {error.remedy}") from error


def named(options: Iterable[Iterable[str]] | None) -> tuple[HostName, ...]:
    """Hosts of an option that may have been repeated, each once and in one order."""
    names = {HostName(name) for each in options or () for name in each}
    return tuple(sorted(names, key=_ORDER.__getitem__))


def words_of(marks: Iterable[pytest.Mark]) -> MarkWords:
    """Put marks together, the nearest first. Raises `UsageError` for what makes no sense."""
    said: dict[str, object] = {}
    for mark in marks:
        _check(mark)
        for word, value in mark.kwargs.items():
            said.setdefault(word, value)
    return MarkWords(
        _hosts(said["hosts"]) if "hosts" in said else None,
        _numbers("memory", said["memory"], "a size (64M, 2G), or bytes", _bytes_of)
        if "memory" in said
        else None,
        _numbers("cpus", said["cpus"], "a number of vCPUs, from 1 on", _count_of)
        if "cpus" in said
        else None,
    )


def _check(mark: pytest.Mark) -> None:
    unknown = [*map(repr, mark.args), *(mark.kwargs.keys() - set(_WORDS))]
    if unknown:
        nearest = ["hosts"] if mark.args else get_close_matches(min(unknown), _WORDS, 1)
        raise UsageError(
            f"understand the mark {MARK}({', '.join(sorted(unknown))})",
            "it takes hosts=, memory= and cpus=, and nothing else",
            f"write {nearest[0]}=" if nearest else "",
        )


def _hosts(value: object) -> tuple[HostName, ...]:
    found: set[HostName] = set()
    for one in _several(value):
        for word in one.split(",") if isinstance(one, str) else (one,):
            try:
                found.add(HostName(word.strip() if isinstance(word, str) else word))
            except ValueError:
                nearest = get_close_matches(str(word), [host.value for host in HostName], 1)
                remedy = f"{_KNOWN}; write {nearest[0]}" if nearest else _KNOWN
                raise UsageError("choose hosts", f"there is no host {word!r}", remedy) from None
    if not found:
        raise UsageError("choose hosts", "none is named", _KNOWN)
    return tuple(sorted(found, key=_ORDER.__getitem__))


def _numbers(
    word: str, value: object, meaning: str, read: Callable[[object], int | None]
) -> tuple[int, ...]:
    found: set[int] = set()
    for one in _several(value):
        number = read(one)
        if number is None or number <= 0:
            raise UsageError(f"use {word}={one!r} of a mark", f"it is {meaning}")
        found.add(number)
    if not found:
        raise UsageError(f"use {word}={value!r} of a mark", "nothing is in it")
    return tuple(sorted(found))


def _bytes_of(value: object) -> int | None:
    if isinstance(value, str):
        return size_of(value)
    return _count_of(value)


def _count_of(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _several(value: object) -> tuple[object, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return tuple(value)
    return (value,)


def parameters(words: MarkWords, chosen: Sequence[HostName]) -> list[ParameterSet]:
    """Parameters of a test with these marks where the command line has `chosen` hosts (or none).

    Empty where nobody asks for anything: the test then is one, without parameters in its name.
    """
    hosts, left_out = _chosen(words.hosts, chosen)
    if hosts is None and words.memory is None and words.cpus is None:
        return []
    found = []
    for host, memory, cpus in product(
        hosts or (None,), words.memory or (None,), words.cpus or (None,)
    ):
        name = [
            *([] if host is None else [host.value]),
            *([] if memory is None else [size_text(memory)]),
            *([] if cpus is None else [f"{cpus}cpu{'s' if cpus > 1 else ''}"]),
        ]
        skip = [pytest.mark.skip(reason=left_out)] if left_out else []
        axes = Axes(HostName.AUTO if host is None else host, memory, cpus)
        found.append(pytest.param(axes, id="-".join(name), marks=skip))
    return found


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make a test of each combination. Raises pytest's error of a file that cannot be collected."""
    try:
        words = words_of(metafunc.definition.iter_markers(MARK))
    except UsageError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    found = parameters(words, named(metafunc.config.getoption("pyvmm_host")))
    if found:
        metafunc.parametrize(AXES, found, indirect=True)


def _chosen(
    marked: tuple[HostName, ...] | None, chosen: Sequence[HostName]
) -> tuple[tuple[HostName, ...] | None, str]:
    """Hosts to run on, and why not to run at all, where the mark and the command line disagree."""
    if not chosen:
        return marked, ""
    if marked is None:
        return tuple(sorted(set(chosen), key=_ORDER.__getitem__)), ""
    both = tuple(host for host in marked if host in chosen)
    if both or HostName.AUTO in chosen:
        return both or marked, ""
    names = ",".join(host.value for host in marked)
    return marked, f"its mark has it run on {names}, --pyvmm-host on others"


def skip_if_not_chosen(host: object, options: Iterable[Iterable[str]] | None) -> None:
    """Skip a test that says `host` of a boot itself, where the command line has others only."""
    chosen = named(options)
    others = [one.value for one in HostName if one not in chosen]
    name = host.value if isinstance(host, HostName) else host
    if chosen and HostName.AUTO not in chosen and name in others:
        reason = f"it boots on {name}, --pyvmm-host has others"
        raise pytest.skip.Exception(reason, _use_item_location=True)


def refusal(error: CannotError, axes: Axes | None, required: Sequence[HostName]) -> BaseException:
    """Exception that ends a test by what its host cannot do: a skip, or a failure if required."""
    hosts = {error.host} if axes is None else {error.host, axes.host}
    wanted = sorted(host.value for host in hosts & set(required))
    if wanted:
        return pytest.fail.Exception(f"{error} (required: --pyvmm-require)", pytrace=False)
    return pytest.skip.Exception(str(error), _use_item_location=True)
