# SPDX-License-Identifier: MIT
"""Converting pages between private and shared: a request becomes ordered steps, or a refusal.

Everything is checked before there is a plan, so a refused request changes nothing. The steps of a
plan, for each chunk of `STEP` bytes of the range:

- to private: tell the devices, set the attribute, give the shared side's pages back;
- to shared: clear the attribute, give the private side's pages back, tell the devices.

Where pages are converted in place (`MemoryRegion.in_place`) there is no other side: nothing is
given back, and contents survive.

Devices are so told before a page leaves and after it has joined. A page that already is where it
is to go may be part of a request; it keeps its contents, since only the other side is discarded.

All addresses are GPAs in bytes, ends exclusive.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.regions import MemoryRegion, RegionPart, RegionTable
from pyvmm.memory.steps import is_one_step, steps_in
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.attributes import SetAttributes as SetRangeAttributes
from pyvmm.rules.attributes import set_attributes
from pyvmm.rules.profile import MAINLINE

_HINT_MASK = 0xF
_ENCRYPTED = 1 << 4
_KVM_EINVAL = 22
_KVM_EOPNOTSUPP = 95


class Side(enum.Enum):
    """Side that a page is converted to."""

    SHARED = "shared"
    PRIVATE = "private"


class Origin(enum.Enum):
    """Origin of a conversion."""

    GUEST = "the guest asked"
    FAULT = "the guest touched"
    HOST = "the host decided"


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """[gpa, gpa + size) is to be on side `to`. Any numbers: `plan` checks them."""

    gpa: int
    size: int
    to: Side
    origin: Origin


class Refusal(enum.Enum):
    """Reason why a request cannot be met.

    `cause` is for people; `hypercall_result` is what the guest finds in RAX: a negative errno of
    ``include/uapi/linux/kvm_para.h``.
    """

    EMPTY = ("it has no pages", -_KVM_EINVAL)
    UNALIGNED = ("its address and size are not multiples of 4096", -_KVM_EINVAL)
    OVERFLOW = ("its end is beyond the last 64-bit address", -_KVM_EINVAL)
    UNCOVERED = ("not all of it is guest memory", -_KVM_EINVAL)
    NO_PRIVATE_SIDE = ("a part of it has no private side", -_KVM_EOPNOTSUPP)
    HAS_PRIVATE_SIDE = ("a part of it has a private side", -_KVM_EOPNOTSUPP)
    BAD_ATTRIBUTES = ("its attributes have bits that mean nothing", -_KVM_EINVAL)
    NO_ATTRIBUTE = (
        "a guest_memfd keeps what is private here, and memory without one cannot be withheld",
        -_KVM_EOPNOTSUPP,
    )

    def __init__(self, cause: str, hypercall_result: int) -> None:
        self.cause = cause
        self.hypercall_result = hypercall_result


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """PRIVATE over `range`, or nothing: by the VM's attributes, or by those of its guest_memfds."""

    range: GpaRange
    private: bool


@dataclass(frozen=True, slots=True)
class DiscardShared:
    """Give back the pages of `range` on the shared side of `region`, which holds all of it."""

    region: MemoryRegion
    range: GpaRange


@dataclass(frozen=True, slots=True)
class DiscardPrivate:
    """Give back the pages of `range` on the private side of `region`, which holds all of it."""

    region: MemoryRegion
    range: GpaRange


@dataclass(frozen=True, slots=True)
class TellLeaving:
    """Devices must let go of `range` before the next step; not all of it need have been theirs."""

    range: GpaRange


@dataclass(frozen=True, slots=True)
class TellJoined:
    """Devices may use `range` from now on; some of it may have been theirs all the time."""

    range: GpaRange


Step: TypeAlias = SetAttributes | DiscardShared | DiscardPrivate | TellLeaving | TellJoined


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The steps, in order, and the states of the pages of the range once all are done.

    `result` has adjacent pages of equal state in one run. `chunks` are the steps, chunk by chunk,
    each made when it is asked for: there may be many. Between two chunks an executor can stop.
    """

    request: ConversionRequest
    result: tuple[PageRun, ...]
    parts: tuple[RegionPart, ...]
    steps_of: Callable[[GpaRange, Sequence[RegionPart]], tuple[Step, ...]]

    def chunks(self) -> Iterator[tuple[Step, ...]]:
        """Yield the steps of each chunk, ascending."""
        whole = self.result[0].range if self.result else None
        if whole is not None and len(self.parts) == 1 and is_one_step(whole):
            yield self.steps_of(whole, self.parts)
            return
        for run in self.result:
            within = [*_parts_within(run.range, self.parts)]
            for chunk in steps_in(run.range):
                yield self.steps_of(chunk, [*_parts_within(chunk, within)])


def plan(request: ConversionRequest, regions: RegionTable) -> ConversionPlan | Refusal:
    """Plan `request` on a VM with `regions`, or return the reason why it cannot be done.

    A guest may ask for more than memory to be shared: what is no memory is a device's place, shared
    by nature, and there is nothing to do. OVMF maps the whole 32-bit MMIO window shared and ends if
    it may not; QEMU lets it pass as well (``kvm_convert_memory``).
    """
    parts = _checked_parts(request.gpa, request.size, regions)
    if parts is Refusal.UNCOVERED and _may_hold_holes(request):
        parts = regions.covered(GpaRange(request.gpa, request.gpa + request.size))
    if isinstance(parts, Refusal):
        return parts
    if request.to is Side.SHARED:
        return _plan(request, parts, _to_shared, PageState.SHARED)
    if not all(region.can_be_private for region, _ in parts):
        return Refusal.NO_PRIVATE_SIDE
    return _plan(request, parts, _to_private, PageState.PRIVATE)


def _may_hold_holes(request: ConversionRequest) -> bool:
    return request.to is Side.SHARED and request.origin is Origin.GUEST and request.gpa >= 0


def plan_withhold(
    gpa: int, size: int, regions: RegionTable, *, in_place: bool = False
) -> ConversionPlan | Refusal:
    """Plan to make every guest access to [gpa, gpa + size) a memory fault; drops the contents.

    Only memory without a private side can be withheld: with one, the same attribute would give the
    guest private pages. `in_place`: the VM has no attributes of its own, so nothing can be.
    """
    parts = _checked_parts(gpa, size, regions)
    if isinstance(parts, Refusal):
        return parts
    if in_place:
        return Refusal.NO_ATTRIBUTE
    if any(region.can_be_private for region, _ in parts):
        return Refusal.HAS_PRIVATE_SIDE
    request = ConversionRequest(gpa, size, Side.PRIVATE, Origin.HOST)
    return _plan(request, parts, _to_private, PageState.WITHHELD)


def decode_map_gpa_range(args: Sequence[int]) -> ConversionRequest | Refusal:
    """The request that the arguments of KVM_HC_MAP_GPA_RANGE make (hypercalls.rst, 9).

    They are a GPA, a number of 4 KiB pages, and attributes: bits 0-3 say what page size the guest
    prefers, and no value of them changes the range; bit 4 says encrypted; the others are reserved.
    """
    gpa, pages, attributes = args[0], args[1], args[2]
    if attributes & ~(_HINT_MASK | _ENCRYPTED):
        return Refusal.BAD_ATTRIBUTES
    to = Side.PRIVATE if attributes & _ENCRYPTED else Side.SHARED
    return ConversionRequest(gpa, pages * PAGE_SIZE, to, Origin.GUEST)


_REFUSALS = {
    "attributes-empty": Refusal.EMPTY,
    "attributes-overflow": Refusal.OVERFLOW,
    "attributes-alignment": Refusal.UNALIGNED,
}
"""The kernel's rules for a range (`pyvmm.rules.attributes`), as refusals of ours."""


def _checked_parts(gpa: int, size: int, regions: RegionTable) -> tuple[RegionPart, ...] | Refusal:
    if size < 0:
        return Refusal.EMPTY
    if gpa < 0:
        return Refusal.UNCOVERED if size else Refusal.EMPTY
    refused = set_attributes(SetRangeAttributes(gpa, size, 0, private_vm=True), MAINLINE)
    if refused is not None:
        return _REFUSALS[refused.rule]
    return regions.parts(GpaRange(gpa, gpa + size)) or Refusal.UNCOVERED


def _plan(
    request: ConversionRequest,
    parts: tuple[RegionPart, ...],
    steps_of: Callable[[GpaRange, Sequence[RegionPart]], tuple[Step, ...]],
    state: PageState,
) -> ConversionPlan:
    result = tuple(PageRun(whole, state) for whole in _joined(parts))
    return ConversionPlan(request, result, parts, steps_of)


def _joined(parts: tuple[RegionPart, ...]) -> Iterator[GpaRange]:
    """The ranges that `parts` cover, without the borders between neighbours."""
    found: GpaRange | None = None
    for _, part in parts:
        if found is not None and part.start == found.end:
            found = GpaRange(found.start, part.end)
            continue
        if found is not None:
            yield found
        found = part
    if found is not None:
        yield found


def _parts_within(chunk: GpaRange, parts: Sequence[RegionPart]) -> Iterator[RegionPart]:
    for region, part in parts:
        if part.overlaps(chunk):
            yield region, GpaRange(max(chunk.start, part.start), min(chunk.end, part.end))


def _to_private(chunk: GpaRange, parts: Sequence[RegionPart]) -> tuple[Step, ...]:
    """Private where there is a private side, withheld where there is none."""
    return (
        TellLeaving(chunk),
        SetAttributes(chunk, private=True),
        *[DiscardShared(region, part) for region, part in parts if not region.in_place],
    )


def _to_shared(chunk: GpaRange, parts: Sequence[RegionPart]) -> tuple[Step, ...]:
    return (
        SetAttributes(chunk, private=False),
        *[DiscardPrivate(region, part) for region, part in parts if region.two_sided],
        TellJoined(chunk),
    )
