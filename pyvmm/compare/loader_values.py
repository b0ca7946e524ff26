# SPDX-License-Identifier: MIT
"""Values that a boot protocol leaves to the loader, found again in what a guest prints.

Where tables and modules lie, what a loader calls itself, how the memory map is cut into pieces. Two
lines that differ in nothing else are explained; a number that pyvmm's loader did not choose is none
of these, and stays a difference.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pyvmm.boot.plan import BootPlan
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GpaRange

REASON = (
    "loader",
    "the boot protocol leaves that to the loader: its name, the places of tables and modules, the "
    "pieces of the memory map",
)
_SMALL = 0xFF
"""Numbers up to here are everybody's: kinds, counts, results."""
_NUMBER = re.compile(r"\b(?:0x[0-9a-fA-F]+|[0-9a-fA-F]{4,16}|[0-9]+)\b")
_NAME = re.compile(r"\b(?:qemu|pyvmm)\b")


@dataclass(frozen=True, slots=True)
class LoaderValues:
    """The `numbers` that pyvmm's loader chose for one guest."""

    numbers: frozenset[int] = frozenset()

    def explain(self, ours: Sequence[str], theirs: Sequence[str]) -> bool:
        """Tell whether pyvmm's lines and QEMU's differ in nothing but what a loader chooses."""
        one = [_NAME.sub("loader", line) for line in ours]
        other = [_NAME.sub("loader", line) for line in theirs]
        # A table has rows: a line that stands alone has to be there on both sides.
        rows = Counter(_shape(line) for line in one if self._is_row(line))
        tables = {shape for shape, count in rows.items() if count > 1}
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        for kind, start, end, its_start, its_end in matcher.get_opcodes():
            mine, its = one[start:end], other[its_start:its_end]
            if kind == "equal" or self._are_pairs(mine, its):
                continue
            if not all(self._is_row(line) for line in mine):
                return False
            if not tables.issuperset(map(_shape, (*mine, *its))):
                return False
        return True

    def _are_pairs(self, ours: Sequence[str], theirs: Sequence[str]) -> bool:
        return len(ours) == len(theirs) and all(map(self._is_pair, ours, theirs))

    def _is_pair(self, ours: str, theirs: str) -> bool:
        if _shape(ours) != _shape(theirs):
            return False
        numbers = zip(_NUMBER.findall(ours), _NUMBER.findall(theirs), strict=True)
        return all(one == other or self._is_chosen(one) for one, other in numbers)

    def _is_chosen(self, token: str) -> bool:
        return not self.numbers.isdisjoint(_readings(token))

    def _is_row(self, line: str) -> bool:
        """Tell whether it has numbers that are not small, and all of these are the loader's."""
        large = [one for one in _NUMBER.findall(line) if max(_readings(one)) > _SMALL]
        return bool(large) and all(map(self._is_chosen, large))


NO_VALUES = LoaderValues()


def loader_values(plan: BootPlan, address_map: AddressMap) -> LoaderValues:
    """The values for a guest that pyvmm loads by `plan`, made with the names that it is told."""
    return LoaderValues(frozenset(one for one in _numbers(plan, address_map) if one > _SMALL))


def _numbers(plan: BootPlan, address_map: AddressMap) -> Iterator[int]:
    for entry in address_map.e820():
        yield from _of_range(entry.range)
    if plan.initrd is not None:
        yield from _of_range(plan.initrd)
    for placement in plan.placements:
        where = GpaRange(placement.gpa, placement.gpa + len(placement.data))
        if placement.gpa in {one.start for one in (plan.kernel, plan.initrd) if one is not None}:
            continue
        if plan.kernel is not None and plan.kernel.overlaps(where):
            continue
        yield from _of_range(where)
        data = bytes(placement.data)
        yield from struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])


def _of_range(where: GpaRange) -> Iterator[int]:
    """The ways in which people print a range: its start, its end, its last byte, its size."""
    for value in (where.start, where.end, where.end - 1, where.size):
        yield from (value, value >> 10, value >> 12, value >> 20)


def _shape(line: str) -> str:
    return _NUMBER.sub("#", line)


def _readings(token: str) -> set[int]:
    """Return the values a token may stand for: hexadecimal, and decimal where it can be."""
    readings = {int(token, 16)}
    if token.isdecimal():
        readings.add(int(token))
    return readings
