# SPDX-License-Identifier: MIT
"""What sequences are tried: mostly what makes sense, now and then what must be refused.

An operation is drawn from lists of values, the simplest first: that is quick, and what shrinks
ends up at the front.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TypeVar

from hypothesis import strategies as st

from pyvmm.rules.profile import Profile

from .operations import (
    ARENA,
    Allocate,
    CloseFile,
    CloseMapping,
    CloseVm,
    CreateFile,
    Discard,
    GuestTouch,
    HostTouch,
    MapAnonymous,
    MapFile,
    Operation,
    PunchHole,
    SetAttributes,
    SetSlot,
)
from .world import PAGE

_RARELY = 12
"""Of how many values about one is to be refused."""

_ARENA_PAGES = [ARENA + n * PAGE for n in (0, 4, 0, 2, 6, 8)]
_SIZES = [n * PAGE for n in (4, 1, 2, 8)]
_OFFSETS = [n * PAGE for n in (0, 4, 1)]
_MINUS_PAGE = (1 << 64) - PAGE

Fields = TypeVar("Fields", bound=tuple[object, ...])
_Place = tuple[int, int, int]
_Backing = tuple[str | None, int, int, str | None, int, str]


def _mixed(good: Iterable[Fields], bad: Iterable[Fields]) -> list[Fields]:
    """`good`, as often as it takes for `bad` to be rare."""
    wanted, refused = list(good), list(bad)
    return [*wanted * max(1, _RARELY * len(refused) // len(wanted)), *refused]


def _places(profile: Profile) -> list[_Place]:
    """Slot, GPA, size."""
    end = 1 << profile.physical_address_bits
    far = [ARENA + 1, end, end - PAGE, end - 4 * PAGE, _MINUS_PAGE, (1 << 64) - 8 * PAGE]
    bad = [
        *((1, gpa, 4 * PAGE) for gpa in far),
        *((slot, ARENA, PAGE) for slot in (32764, 32763, 0x7FFF, 0xFFFF, 1 << 15)),
        *((1, ARENA, size) for size in (1, PAGE - 1, PAGE + 1, 1 << 43, 1 << 44, _MINUS_PAGE)),
    ]
    return _mixed(product((1, 2, 3), _ARENA_PAGES, _SIZES), bad)


def _bare_backings() -> list[_Backing]:
    """Mapping, offset in it, flags, no file, VM."""
    memories, offsets, flags = ("M", "N", "O", None), (0, 0, PAGE), (0, 0, 2, 1, 3)
    good = product(memories, offsets, flags, (None,), (0,), ("one",))
    bad: list[_Backing] = [("M", 1, 0, None, 0, "one"), ("M", 0, 0, None, 0, "two")]
    bad += [("M", 0, flag, None, 0, "one") for flag in (4, 6, 8, 1 << 31)]
    return _mixed(good, bad)


def _bound_backings() -> list[_Backing]:
    """Mapping, offset in it, flags, file, offset in it, VM."""
    good = product(("M", "N", None), (0, PAGE), (0,), ("A", "A", "B", "C"), _OFFSETS, ("one",))
    bad: list[_Backing] = [("M", 0, 0, file, 0, "two") for file in "ABC"]
    bad += [("M", 0, flag, "A", 0, "one") for flag in (1, 2, 3, 8)]
    bad += [("M", 0, 0, "A", at, "one") for at in (1, 8 * PAGE, _MINUS_PAGE, 1 << 63)]
    return _mixed(good, bad)


def _slot(place: _Place, backing: _Backing) -> SetSlot:
    slot, gpa, size = place
    return SetSlot(slot, gpa, size, *backing)


def _some(
    kind: type[Operation], good: Iterable[object], bad: Iterable[object] = ()
) -> st.SearchStrategy[Operation]:
    return st.sampled_from([kind(*fields) for fields in _mixed(good, bad)])  # type: ignore


def operations(profile: Profile, *, private: bool) -> st.SearchStrategy[Operation]:
    """One operation. `private`: whether VMs have private memory."""
    known = profile.guest_memfd_flags
    flags = [0, known & 1] if private else [known, 0, known & 1, known & 2]
    places = st.sampled_from(_places(profile))
    values = [None, 0x11, 0x22, 0x33]
    ranges = list(product(_OFFSETS, _SIZES))
    odd = [(0, 1), (1, PAGE), (8 * PAGE, PAGE), (0, 0), (0, 16 * PAGE), (0, (1 << 63) - PAGE)]
    spots = [ARENA + n * PAGE + n for n in (0, 4, 0, 1, 0, 4, 5, 2, 3, 6, 8, 12)]
    attributes_odd = [(ARENA, PAGE, 1), (ARENA, PAGE, 1 << 63), (ARENA, 0, 8), (ARENA + 1, PAGE, 8)]
    attributes_odd += [(_MINUS_PAGE, PAGE, 8), (ARENA, _MINUS_PAGE, 8), (ARENA, 1, 0)]
    kinds: list[tuple[int, st.SearchStrategy[Operation]]] = [
        (16, _some(GuestTouch, product(spots, values))),
        (3, st.builds(_slot, places, st.sampled_from(_bare_backings()))),
        (4, st.builds(_slot, places, st.sampled_from(_bound_backings()))),
        (2, _some(SetSlot, product((1, 2, 3), (ARENA,), (0,)), [(4, 0, 0)])),
        (
            6 if private else 1,
            _some(
                SetAttributes,
                product(_ARENA_PAGES, _SIZES, (8, 0, 8)),
                [*attributes_odd, (ARENA, PAGE, 8, "two")],
            ),
        ),
        (4, _some(HostTouch, product("MMNO", (0, 1, 4), values))),
        (1, _some(MapAnonymous, product("MNO"))),
        (2, _some(MapFile, product("NOM", "AABC"))),
        (
            2,
            _some(
                CreateFile,
                product("ABC", [8 * PAGE, 4 * PAGE, PAGE, 1 << 24], flags),
                [
                    *product("A", [0, 1, PAGE + 1, 1 << 63, _MINUS_PAGE], [0]),
                    *product("A", [PAGE], [1, 2, 3, 4, 1 << 63]),
                    *product("AB", [8 * PAGE], [0, known], ["two"]),
                ],
            ),
        ),
        (2, _some(PunchHole, [("A", *r) for r in ranges], [("B", *r) for r in odd])),
        (2, _some(Allocate, [("A", *r) for r in ranges], [("B", *r) for r in odd])),
        (2, _some(Discard, [(m, *r) for m in "MN" for r in ranges], [("M", *r) for r in odd])),
        (1, _some(CloseFile, product("ABC"))),
        (1, _some(CloseMapping, product("MNO"))),
        (1, _some(CloseVm, product(["two", "two", "one"]))),
    ]
    weighted = [strategy for weight, strategy in kinds for _ in range(weight)]
    return st.sampled_from(weighted).flatmap(lambda strategy: strategy)


def _fitting() -> st.SearchStrategy[SetSlot]:
    """A slot that nothing is wrong with, unless another one is in the way."""
    places = [(1, ARENA, 4 * PAGE), (2, ARENA + 4 * PAGE, 4 * PAGE), (1, ARENA, 8 * PAGE)]
    backings = product("MN", (0,), (0,), (None, "A", "A", "B"), (0, 4 * PAGE), ("one",))
    return st.sampled_from([_slot(*fields) for fields in product(places, backings)])


def _begin(private: bool) -> st.SearchStrategy[list[Operation]]:
    """What most sequences need before anything can come of them: slots, and something written."""
    slots = st.lists(_fitting(), max_size=2)
    made_private = [SetAttributes(ARENA, size, 8) for size in (4 * PAGE, 8 * PAGE)]
    attributes = st.lists(st.sampled_from(made_private), max_size=2 if private else 0)
    written = st.sampled_from([GuestTouch(ARENA + n * PAGE + n, 0x11) for n in (0, 4, 1)])
    parts = st.tuples(slots, attributes, st.lists(written, max_size=2))
    return parts.map(lambda three: [*three[0], *three[1], *three[2]])


def sequences(profile: Profile, *, private: bool) -> st.SearchStrategy[list[Operation]]:
    """What one pair of hosts is asked to do, in order: twelve operations or so, 26 at most."""
    # A list is five long on average, whatever its largest size; each part shrinks to none.
    part = st.lists(operations(profile, private=private), max_size=10)
    parts = st.tuples(_begin(private), part, part)
    return parts.map(lambda three: [*three[0], *three[1], *three[2]])
