# SPDX-License-Identifier: MIT
"""A boot matrix: images by memory, CPUs and hosts, without exclusions, and what each is to do."""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pyvmm.errors import UsageError
from pyvmm.memory.sizes import size_text
from pyvmm.testing.boot_defaults import DEFAULT_TIMEOUT
from pyvmm.testing.drivers.monitors import HostName


class End(enum.Enum):
    """End that a boot is to come to; the values are what a matrix file says."""

    EXITED = "exited"
    RESET = "reset"
    POWERED_OFF = "powered-off"
    PANICKED = "panicked"
    CRASHED = "crashed"
    CONSOLE = "console"
    """None of its own: the boot is over when the console has said all that is expected."""


class Strictness(enum.Enum):
    """Meaning of a boot that does not do what is expected of it."""

    MUST_PASS = "must pass"
    MAY_FAIL = "may fail"
    FAILS = "fails"
    """It is known to fail, and a boot that passes is the surprise."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Things that a boot is to do; None where nothing is said (`complete` fills that in).

    `console` are texts and `regex` are patterns of `re`, multi-line; each is looked for behind the
    one before it, the texts first. `absent` are texts that the console must not say.
    """

    end: End | None = None
    status: int | None = None
    console: tuple[str, ...] | None = None
    regex: tuple[str, ...] | None = None
    absent: tuple[str, ...] | None = None
    strictness: Strictness | None = None
    reason: str = ""
    """Cause that the file gives for `strictness`."""

    def overridden(self, other: Expectation) -> Expectation:
        """Put what `other` says in place of what this says."""
        said = {
            name: value
            for name in ("end", "status", "console", "regex", "absent")
            if (value := getattr(other, name)) is not None
        }
        if other.strictness is not None:
            said |= {"strictness": other.strictness, "reason": other.reason}
        if other.end not in {None, End.EXITED} and other.status is None:
            said["status"] = None
        if other.status is not None and other.end is None:
            said["end"] = End.EXITED
        return replace(self, **said)

    def wanted(self) -> Iterator[tuple[str, re.Pattern[bytes]]]:
        """Yield what the console is to say, in order: as the file has it, and as it is searched."""
        for text in self.console or ():
            yield text, re.compile(re.escape(text.encode()))
        for text in self.regex or ():
            yield text, compiled(text)

    def complete(self) -> Expectation:
        """With the end that goes without saying: exited, with status 0."""
        end = self.end or End.EXITED
        status = self.status
        if status is None and end is End.EXITED:
            status = 0
        strictness = self.strictness or Strictness.MUST_PASS
        return replace(self, end=end, status=status, strictness=strictness)


def compiled(text: str) -> re.Pattern[bytes]:
    """A pattern of `regex`. Raises what `re.compile` does.

    What a later Python may take for another pattern (``[[``) is no warning here: nobody who runs a
    matrix would see by that which pattern is meant.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(text.encode(), re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Axes:
    """Values that are combined; `memory` in bytes. None has the same value twice."""

    memory: tuple[int, ...]
    cpus: tuple[int, ...]
    hosts: tuple[HostName, ...]

    @property
    def combinations(self) -> int:
        """Number of them."""
        return len(self.memory) * len(self.cpus) * len(self.hosts)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image of the matrix: `path` as the file has it, relative to the file or a bundled name."""

    name: str
    path: str
    axes: Axes
    append: str = ""
    initrd: str | None = None
    typed: str = ""
    private: bool = False
    timeout: float = DEFAULT_TIMEOUT
    """Seconds from the boot to when it is ended."""
    expect: Expectation = Expectation()


@dataclass(frozen=True, slots=True)
class Selection:
    """Combinations that have one of the values on each axis; None takes any."""

    images: frozenset[str] | None = None
    memory: frozenset[int] | None = None
    cpus: frozenset[int] | None = None
    hosts: frozenset[HostName] | None = None

    def has(self, image: str, memory: int, cpus: int, host: HostName) -> bool:
        """Tell whether the combination is one of them."""
        return (
            (self.images is None or image in self.images)
            and (self.memory is None or memory in self.memory)
            and (self.cpus is None or cpus in self.cpus)
            and (self.hosts is None or host in self.hosts)
        )


@dataclass(frozen=True, slots=True)
class Override:
    """Expectation for some combinations, in place of that of their image."""

    where: Selection
    expect: Expectation


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: a combination, and what it is to do."""

    image: PlannedImage
    memory: int
    cpus: int
    host: HostName
    expect: Expectation

    @property
    def key(self) -> str:
        """Name of the boot, the same in every run: image, memory, CPUs, host."""
        return f"{self.image.name}/{size_text(self.memory)}-{self.cpus}cpu-{self.host.value}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """All of it, in the order of the file."""

    images: tuple[PlannedImage, ...]
    excluded: tuple[Selection, ...] = ()
    overrides: tuple[Override, ...] = ()

    @property
    def combinations(self) -> int:
        """Number of combinations, exclusions not yet taken away; nothing is made for it."""
        return sum(image.axes.combinations for image in self.images)

    def boots(self) -> Iterator[Boot]:
        """Yield each combination that is not excluded, once: by image, memory, CPUs, host."""
        for image in self.images:
            for memory in image.axes.memory:
                for cpus in image.axes.cpus:
                    for host in image.axes.hosts:
                        if not any(
                            one.has(image.name, memory, cpus, host) for one in self.excluded
                        ):
                            yield self._boot(image, memory, cpus, host)

    def _boot(self, image: PlannedImage, memory: int, cpus: int, host: HostName) -> Boot:
        expect = image.expect
        for one in self.overrides:
            if one.where.has(image.name, memory, cpus, host):
                expect = expect.overridden(one.expect)
        return Boot(image, memory, cpus, host, expect.complete())


def check_limit(matrix: Matrix, name: str, limit: int) -> None:
    """Refuse a matrix of more than `limit` combinations before any of them is made.

    Raises `UsageError`.
    """
    count = matrix.combinations
    if count > limit:
        raise UsageError(
            f"boot the matrix {name}",
            f"it has {count} combinations, more than {limit}",
            f"shorten its lists, or say --limit {count} if all of them are meant",
        )


def check_effect(matrix: Matrix, name: str) -> None:
    """See that each exclusion and each expectation is about a combination that there is.

    Raises `UsageError`: one that is about none is a mistake, and would hide what it was made for.
    """
    for title, selections in (
        ("[[exclude]]", matrix.excluded),
        ("[[expect]]", tuple(one.where for one in matrix.overrides)),
    ):
        for number, selection in enumerate(selections, 1):
            if not any(_meets(selection, image) for image in matrix.images):
                raise UsageError(
                    f"read the matrix {name}",
                    f"{title} {number} is about no combination that there is",
                    "take it out, or see whether the image has lists of its own",
                )


def _meets(selection: Selection, image: PlannedImage) -> bool:
    axes = image.axes
    return (
        (selection.images is None or image.name in selection.images)
        and (selection.memory is None or not selection.memory.isdisjoint(axes.memory))
        and (selection.cpus is None or not selection.cpus.isdisjoint(axes.cpus))
        and (selection.hosts is None or not selection.hosts.isdisjoint(axes.hosts))
    )
