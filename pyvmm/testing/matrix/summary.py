# SPDX-License-Identifier: MIT
"""All results of a matrix, laid out as every report shows them: a row a guest, a column a host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvmm.memory.sizes import size_text
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.matrix.plan import Boot
from pyvmm.testing.matrix.results import BootResult, Verdict

ORDER = (
    Verdict.PASSED,
    Verdict.FAILED_AS_EXPECTED,
    Verdict.FAILED_AS_IT_MAY,
    Verdict.SKIPPED,
    Verdict.FAILED,
    Verdict.PASSED_UNEXPECTEDLY,
    Verdict.LOST,
    Verdict.NOT_RUN,
)


@dataclass(frozen=True, slots=True)
class Row:
    """Boots that differ in their hosts only; `cells` are in the order of the report's hosts."""

    image: str
    memory: str
    cpus: int
    cells: tuple[BootResult | None, ...]
    """None for a combination that is excluded."""

    @property
    def is_as_expected(self) -> bool:
        """True where each of them is."""
        return all(one is None or one.verdict.is_as_expected for one in self.cells)


@dataclass(frozen=True, slots=True)
class Summary:
    """Results of a matrix, one for each boot, in its order."""

    name: str
    """The matrix file."""
    place: str
    """Machine or cluster that it ran on, in words."""
    seconds: float
    hosts: tuple[HostName, ...]
    rows: tuple[Row, ...]

    @property
    def results(self) -> Iterator[BootResult]:
        """Every result, by rows."""
        return (cell for row in self.rows for cell in row.cells if cell is not None)

    @property
    def counts(self) -> dict[Verdict, int]:
        """Number of results by verdict, without those of which there is none."""
        found = Counter(one.verdict for one in self.results)
        return {verdict: found[verdict] for verdict in ORDER if found[verdict]}

    @property
    def is_as_expected(self) -> bool:
        """True where every result is."""
        return all(verdict.is_as_expected for verdict in self.counts)

    @property
    def sentence(self) -> str:
        """The counts in a line."""
        counts = self.counts
        parts = ", ".join(_counted(count, verdict) for verdict, count in counts.items())
        total = sum(counts.values())
        boots = "1 boot" if total == 1 else f"{total} boots"
        return f"{boots} in {self.seconds:.1f} s on {self.place}: {parts or 'none'}"

    def told(self) -> list[BootResult]:
        """Results that have to be explained in words: first those that are not as expected."""
        having = [one for one in self.results if one.verdict is not Verdict.PASSED]
        having.sort(key=lambda one: (one.verdict.is_as_expected, ORDER.index(one.verdict)))
        return having


def _counted(count: int, verdict: Verdict) -> str:
    plural = "s" if count > 1 and verdict.value.endswith("failure") else ""
    return f"{count} {verdict.value}{plural}"


def summarise(
    name: str, place: str, seconds: float, boots: Iterable[Boot], results: Iterable[BootResult]
) -> Summary:
    """Lay `results` out by `boots`; a boot without a result was not run.

    Raises ValueError for a second result of a boot, and for one of none: each counts once.
    """
    by_key: dict[str, BootResult] = {}
    for result in results:
        if result.key in by_key:
            raise ValueError(f"two results of {result.key}")
        by_key[result.key] = result
    hosts: dict[HostName, None] = {}
    guests: dict[tuple[str, int, int], dict[HostName, BootResult]] = {}
    for boot in boots:
        hosts[boot.host] = None
        guest = guests.setdefault((boot.image.name, boot.memory, boot.cpus), {})
        if boot.key in by_key:
            guest[boot.host] = by_key.pop(boot.key)
        else:
            guest[boot.host] = BootResult(boot.key, Verdict.NOT_RUN, attempts=0)
    if by_key:
        raise ValueError(f"a result of {next(iter(by_key))}, which is no boot of the matrix")
    rows = tuple(
        Row(image, size_text(memory), cpus, tuple(cells.get(host) for host in hosts))
        for (image, memory, cpus), cells in guests.items()
    )
    return Summary(name, place, seconds, tuple(hosts), rows)
