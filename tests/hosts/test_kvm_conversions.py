# SPDX-License-Identifier: MIT
"""Conversions that vCPUs' threads make by themselves, and hypercalls made by private code."""

from __future__ import annotations

import errno
import struct
import threading

import pytest

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.held_ranges import HeldKind, LeaseRefusal, refused_row
from pyvmm.hosts.interface import Converted, Memslot, ServedSpan
from pyvmm.hosts.kvm.binding import lib, new
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.hosts.kvm.conversions import JOURNAL_ENTRIES, MOST_SPANS
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu_values import SyncRegs
from pyvmm.hosts.kvm.vm import Vm

from .flat_guest import SPIN, MakeGuest
from .private_guest import (
    DATA,
    FILE_OFFSET,
    FINISH,
    MAP_GPA_RANGE,
    OUT_EAX,
    PAGE,
    PRIVATE,
    PRIVATE_CODE,
    RAM_SIZE,
    TO_PRIVATE,
    TO_SHARED,
    MakePrivateGuest,
    PrivateGuest,
    convert,
    go_private,
    repeat,
    report,
    set_register,
    store,
)

pytestmark = pytest.mark.kvm

FINISHED = exits.IoOut(0x62, 1, 1, b"\0")
GIB = 1 << 30


def told(value: int) -> exits.IoOut:
    return exits.IoOut(0x61, 4, 1, value.to_bytes(4, "little"))


def asked(gpa: int, pages: int, attributes: int) -> exits.Hypercall:
    return exits.Hypercall(MAP_GPA_RANGE, (gpa, pages, attributes, 0, 0, 0), True)


def take(vm: Vm, gpa: int, pages: int, attributes: int, number: int = MAP_GPA_RANGE) -> bool:
    """Whether the fast path takes this hypercall; without a guest."""
    run = new("struct kvm_run *", {"exit_reason": ExitReason.HYPERCALL})
    run.u.hypercall.nr = number
    run.u.hypercall.args = [gpa, pages, attributes, 0, 0, 0]
    run.u.hypercall.ret = 1
    taken = bool(lib.pyvmm_conversions_take(vm.conversions.raw, run))
    assert run.u.hypercall.ret == (0 if taken else 1)
    return taken


def test_both_ways_without_an_exit(private_guest: MakePrivateGuest) -> None:
    pages = 3
    last = DATA + (pages - 1) * PAGE
    made = private_guest(
        store(last, 0x1111)
        + convert(DATA, pages, TO_PRIVATE)
        + OUT_EAX
        + report(last)
        + store(last, 0x2222)
        + report(last)
        + convert(DATA, pages, TO_SHARED)
        + OUT_EAX
        + report(last)
        + store(last, 0x3333)
        + FINISH
    )
    made.vm.conversions.serve([made.span()])
    made.write(DATA, b"x" * PAGE)  # of this the guest knows nothing
    assert made.vcpu.run() == told(0)
    assert made.shared_size(DATA, pages * PAGE) == 0
    assert made.private_size(0, RAM_SIZE) == 0
    assert made.vcpu.run() == told(0)
    assert made.vcpu.run() == told(0x2222)
    assert made.private_size(DATA, pages * PAGE) == PAGE
    assert made.shared_size(DATA, pages * PAGE) == 0
    assert made.vcpu.run() == told(0)
    assert made.private_size(0, RAM_SIZE) == 0
    assert made.vcpu.run() == told(0)
    assert made.vcpu.run() == FINISHED
    assert made.read(last, 2) == b"\x33\x33"
    assert made.read(DATA, PAGE) == bytes(PAGE)
    assert made.vcpu.exit_counts() == {"IO": 6, "CONVERTED": 2} | completions(made)
    # What was there before it has been converted back is not told.
    assert made.vm.conversions.drain() == [Converted(DATA, pages * PAGE, False)]


def completions(made: PrivateGuest) -> dict[str, int]:
    """How often the vCPU helped KVM past a hypercall, which depends on the processor."""
    counts = made.vcpu.exit_counts()
    return {name: count for name, count in counts.items() if name == "HYPERCALL_COMPLETED"}


def test_only_what_lies_in_one_span_is_taken(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    vm.conversions.serve([made.span(DATA, 4 * PAGE), made.span(DATA + 4 * PAGE, 2 * PAGE)])
    assert not take(vm, DATA - PAGE, 1, TO_PRIVATE)
    assert not take(vm, DATA - PAGE, 2, TO_PRIVATE)
    assert not take(vm, DATA, 5, TO_PRIVATE)  # two of them
    assert not take(vm, DATA + 3 * PAGE, 2, TO_PRIVATE)
    assert not take(vm, DATA + 6 * PAGE, 1, TO_PRIVATE)
    assert not take(vm, DATA + 5 * PAGE, 2, TO_PRIVATE)
    assert vm.conversions.drain() == []
    assert take(vm, DATA, 4, TO_PRIVATE)
    assert take(vm, DATA + 5 * PAGE, 1, TO_PRIVATE)
    assert vm.conversions.drain() == [
        Converted(DATA, 4 * PAGE, True),
        Converted(DATA + 5 * PAGE, PAGE, True),
    ]
    vm.conversions.serve([])
    assert not take(vm, DATA, 1, TO_SHARED)


def test_what_is_held_is_left_to_python_and_nothing_else(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    held = vm.conversions.held
    vm.conversions.serve([made.span()])
    held.add_region(0, 0, RAM_SIZE, writable=True)
    lease = held.lease(struct.pack("=QQ", DATA + PAGE + 5, 1), 1, True)
    listener = held.hold([(DATA + 4 * PAGE, PAGE)], HeldKind.LISTENER)
    held.hold([(DATA, RAM_SIZE - DATA)], HeldKind.WAITING)
    for gpa, pages in ((DATA, 2), (DATA + PAGE, 1), (DATA, 6), (DATA + 3 * PAGE, 2)):
        assert not take(vm, gpa, pages, TO_PRIVATE)
        assert not take(vm, gpa, pages, TO_SHARED)
    assert vm.conversions.drain() == []
    for page in (0, 2, 5):
        assert take(vm, DATA + page * PAGE, 1, TO_PRIVATE)
    assert [held.is_shared(DATA + page * PAGE, PAGE) for page in range(6)] == [
        False, True, False, True, True, False,
    ]  # fmt: skip
    assert refused_row(held.lease(struct.pack("=QQ", DATA, 1), 1, True)) == (
        0,
        LeaseRefusal.NOT_SHARED,
    )
    held.release(HeldKind.LEASE, lease)
    assert take(vm, DATA, 4, TO_PRIVATE)
    assert not take(vm, DATA, 5, TO_PRIVATE)
    held.release(HeldKind.LISTENER, listener)
    assert take(vm, DATA, 5, TO_SHARED)
    assert held.is_shared(DATA, 5 * PAGE)
    assert not held.is_shared(DATA, 6 * PAGE)


def test_what_is_not_taken_ends_the_run_unchanged(private_guest: MakePrivateGuest) -> None:
    made = private_guest(
        store(DATA, 0x1111) + convert(DATA, 2, TO_PRIVATE) + OUT_EAX + report(DATA) + FINISH
    )
    made.vm.conversions.serve([made.span(DATA, PAGE)])
    assert made.vcpu.run() == asked(DATA, 2, TO_PRIVATE)
    made.vcpu.answer_hypercall(-errno.EINVAL)
    assert made.vcpu.run() == told(2**32 - errno.EINVAL)
    assert made.vcpu.run() == told(0x1111)
    assert made.vm.conversions.drain() == []
    assert made.vcpu.exit_counts() == {"HYPERCALL": 1, "IO": 2} | completions(made)


@pytest.mark.parametrize(
    ("gpa", "pages", "attributes", "number"),
    [
        (DATA + 1, 1, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA + 0x800, 1, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, 0, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, GIB // PAGE + 1, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, 1 << 52, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, (1 << 52) + 1, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, 2**64 - 1, TO_PRIVATE, MAP_GPA_RANGE),
        (2**64 - PAGE, 2, TO_PRIVATE, MAP_GPA_RANGE),
        (2**64 - PAGE, 1, TO_PRIVATE, MAP_GPA_RANGE),
        (DATA, 1, 3, MAP_GPA_RANGE),
        (DATA, 1, TO_PRIVATE | 4, MAP_GPA_RANGE),
        (DATA, 1, TO_PRIVATE | 0xF, MAP_GPA_RANGE),
        (DATA, 1, 0x20, MAP_GPA_RANGE),
        (DATA, 1, TO_PRIVATE | 1 << 63, MAP_GPA_RANGE),
        (DATA, 1, TO_PRIVATE, 11),
        (DATA, 1, TO_PRIVATE, MAP_GPA_RANGE | 1 << 32),
    ],
)
def test_invalid_requests_are_not_taken(
    private_guest: MakePrivateGuest, gpa: int, pages: int, attributes: int, number: int
) -> None:
    made = private_guest()
    made.vm.conversions.serve([made.span()])
    assert not take(made.vm, gpa, pages, attributes, number)
    assert made.vm.conversions.drain() == []


def test_the_page_size_is_a_hint(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    vm.conversions.serve([made.span()])
    for hint in range(3):
        assert take(vm, DATA + hint * 2 * PAGE, 1, TO_PRIVATE | hint)
    assert vm.conversions.drain() == [
        Converted(DATA + hint * 2 * PAGE, PAGE, True) for hint in range(3)
    ]


def test_a_gibibyte_is_the_most(system: System, private_guest: MakePrivateGuest) -> None:
    vm = private_guest().vm
    with system.map_anonymous(GIB + PAGE) as ram, vm.create_guest_memfd(GIB + PAGE) as file:
        vm.conversions.serve([ServedSpan(GIB, GIB + PAGE, ram.hva, file)])
        with ram.view() as view:
            view[0] = view[GIB - 1] = view[GIB] = 1
        assert not take(vm, GIB, GIB // PAGE + 1, TO_PRIVATE)
        assert take(vm, GIB, GIB // PAGE, TO_PRIVATE)
        assert ram.resident(0, GIB + PAGE) == PAGE
        vm.conversions.serve([])


def test_conversions_that_touch_are_joined(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    vm.conversions.serve([made.span()])
    for page, pages, attributes in (
        (2, 1, TO_PRIVATE),
        (3, 2, TO_PRIVATE),
        (1, 1, TO_PRIVATE),
        (2, 1, TO_PRIVATE),  # again
        (6, 1, TO_PRIVATE),  # apart
        (6, 1, TO_SHARED),  # instead
        (5, 3, TO_SHARED),  # that, too, and more
        (9, 1, TO_SHARED),  # apart
    ):
        assert take(vm, DATA + page * PAGE, pages, attributes)
    assert vm.conversions.drain() == [
        Converted(DATA + 1 * PAGE, 4 * PAGE, True),
        Converted(DATA + 5 * PAGE, 3 * PAGE, False),
        Converted(DATA + 9 * PAGE, 1 * PAGE, False),
    ]
    assert vm.conversions.drain() == []


def test_a_full_journal_ends_the_run(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    vm.conversions.serve([made.span()])
    # Two pages in turn, apart from each other: nothing can be joined.
    pages = [DATA + 2 * (number % 2) * PAGE for number in range(JOURNAL_ENTRIES)]
    assert all(take(vm, page, 1, TO_PRIVATE) for page in pages)
    assert not take(vm, DATA, 1, TO_PRIVATE)
    assert vm.conversions.drain() == [Converted(page, PAGE, True) for page in pages]
    assert take(vm, DATA, 1, TO_PRIVATE)


def touch(vm: Vm, gpa: int, flags: int = 1 << 3) -> bool:
    """Whether the fast path takes this memory fault; without a guest."""
    run = new("struct kvm_run *", {"exit_reason": ExitReason.MEMORY_FAULT})
    run.u.memory_fault.flags = flags
    run.u.memory_fault.gpa, run.u.memory_fault.size = gpa, PAGE
    return bool(lib.pyvmm_conversions_take_touch(vm.conversions.raw, run))


def test_what_is_touched_becomes_shared_in_blocks(private_guest: MakePrivateGuest) -> None:
    vm = (made := private_guest()).vm
    window = ServedSpan(GIB + PAGE, 20 * PAGE, 1 << 40, touch_block=8 * PAGE)
    vm.conversions.serve([made.span(), window])
    assert not touch(vm, GIB), "before the span"
    assert not touch(vm, GIB + 21 * PAGE), "behind it"
    assert not touch(vm, DATA), "what has a private side is not withheld"
    assert not touch(vm, GIB + PAGE, 0), "a shared access is none to what is withheld"
    assert not take(vm, GIB + PAGE, 1, TO_PRIVATE), "there is nothing that it could be private in"
    assert vm.conversions.drain() == []
    for gpa, start, pages in ((2, 1, 7), (9, 8, 8), (20, 16, 5)):
        assert touch(vm, GIB + gpa * PAGE)
        assert vm.conversions.drain() == [Converted(GIB + start * PAGE, pages * PAGE, False)]
    vm.conversions.serve([])
    assert not touch(vm, GIB + PAGE)


def missing_span(made_of: ServedSpan, slot: int) -> ServedSpan:
    memslot = Memslot(
        slot,
        made_of.gpa,
        made_of.size,
        made_of.hva,
        guest_memfd=made_of.guest_memfd,
        guest_memfd_offset=made_of.guest_memfd_offset,
    )
    return made_of._replace(missing=memslot)


def test_a_missing_memslot_is_set_by_the_first_private_touch(
    system: System, guest: MakeGuest
) -> None:
    vm = guest(SPIN).vm
    gpa = 4 * GIB
    with system.map_anonymous(4 * PAGE) as ram, vm.create_guest_memfd(8 * PAGE) as file:
        plain = ServedSpan(gpa, 4 * PAGE, ram.hva, file, 2 * PAGE)
        span = missing_span(plain, 7)
        vm.conversions.serve([span])
        assert not touch(vm, gpa - PAGE), "before the span"
        assert not touch(vm, gpa, 0), "a shared access"
        assert not take(vm, gpa, 1, TO_SHARED), "there is no memory to convert"
        assert vm.conversions.drain() == []
        assert touch(vm, gpa + PAGE)
        assert not touch(vm, gpa + PAGE), "it is there now"
        assert vm.conversions.drain() == [Converted(gpa, 4 * PAGE, True, plugged=True)]
        # The kernel has it: nothing else fits there, and the file's range is bound.
        overlapping = Memslot(8, gpa + PAGE, PAGE, ram.hva)
        with pytest.raises(SystemCallError, match="EEXIST"):
            vm.set_memslot(overlapping)
        assert span.missing is not None
        vm.set_memslot(span.missing._replace(size=0))
        vm.set_memslot(overlapping)
        vm.conversions.serve([span])
        assert not touch(vm, gpa), "what KVM refuses is left to Python"
        assert vm.conversions.drain() == []
        vm.conversions.serve([])
        vm.set_memslot(overlapping._replace(size=0))


def test_a_guest_plugs_memory_in_without_an_exit(private_guest: MakePrivateGuest) -> None:
    first, second = DATA, DATA + 4 * PAGE
    made = private_guest(
        store(first + PAGE, 0x1111)
        + convert(first, 4, TO_SHARED)
        + OUT_EAX
        + report(first + PAGE)
        + convert(first, 4, TO_PRIVATE)
        + store(second, 0x2222)
        + report(second)
        + FINISH
    )
    vm = made.vm
    file = made.file
    whole = Memslot(0, 0, RAM_SIZE, made.ram.hva, guest_memfd=file, guest_memfd_offset=FILE_OFFSET)
    vm.set_memslot(whole._replace(size=0))
    vm.set_memslot(whole._replace(size=DATA))
    vm.set_memory_attributes(first, 8 * PAGE, MemoryAttribute.PRIVATE)
    vm.conversions.serve(
        [missing_span(made.span(gpa, 4 * PAGE), slot)
         for slot, gpa in ((1, first), (2, second))]
    )  # fmt: skip
    assert [made.vcpu.run() for _ in range(3)] == [told(0), told(0), told(0x2222)]
    assert made.vcpu.run() == exits.IoOut(0x62, 1, 1, b"\x22")
    assert made.vcpu.exit_counts() == {"IO": 4, "CONVERTED": 4} | completions(made)
    # That a slot has come is not forgotten for a conversion of all of it.
    assert vm.conversions.drain() == [
        Converted(first, 4 * PAGE, True, plugged=True),
        Converted(first, 4 * PAGE, True),
        Converted(second, 4 * PAGE, True, plugged=True),
    ]
    assert made.private_size(second, 4 * PAGE) == PAGE


def test_nothing_is_noted_where_the_attributes_are_refused(
    system: System, guest: MakeGuest
) -> None:
    # A VM of the default type has no private memory, on any host.
    vm = guest(SPIN).vm
    with system.map_anonymous(PAGE) as ram, vm.create_guest_memfd(PAGE) as file:
        vm.conversions.serve([ServedSpan(DATA, PAGE, ram.hva, file)])
        with ram.view() as view:
            view[0] = 7
            assert not take(vm, DATA, 1, TO_PRIVATE)
            assert view[0] == 7
        assert vm.conversions.drain() == []
        vm.conversions.serve([])


def test_a_failed_discard_is_told_and_noted(private_guest: MakePrivateGuest) -> None:
    made = private_guest(convert(DATA, 1, TO_PRIVATE) + OUT_EAX + report(DATA) + FINISH)
    nowhere = ServedSpan(DATA, PAGE, 1 << 40, made.file, FILE_OFFSET + DATA)
    made.vm.conversions.serve([nowhere])
    made.write(DATA, b"\x11" * PAGE)
    # Python is asked to do it again, the attributes being set already.
    assert made.vcpu.run() == asked(DATA, 1, TO_PRIVATE)
    assert made.vm.conversions.drain() == [Converted(DATA, PAGE, True)]
    made.ram.discard(DATA, PAGE)
    made.vcpu.answer_hypercall(0)
    assert made.vcpu.run() == told(0)
    assert made.vcpu.run() == told(0)
    assert made.private_size(DATA, PAGE) == PAGE


CONVERT_FOR_EVER = repeat(convert(DATA, 1, TO_PRIVATE) + convert(DATA, 1, TO_SHARED))


def test_a_guest_that_converts_for_ever_can_be_kicked(private_guest: MakePrivateGuest) -> None:
    made = private_guest(CONVERT_FOR_EVER)
    made.vm.conversions.serve([made.span()])
    for _ in range(20):
        kicker = threading.Timer(0.02, made.vcpu.kick)
        kicker.start()
        assert made.vcpu.run() == exits.Interrupted()
        kicker.join()
    assert made.vcpu.exit_counts()["CONVERTED"] > 0
    assert len(made.vm.conversions.drain()) == 1, "a page that goes back and forth is one entry"


def test_exclusive_keeps_the_fast_path_out(private_guest: MakePrivateGuest) -> None:
    made = private_guest(CONVERT_FOR_EVER)
    conversions = made.vm.conversions
    conversions.serve([made.span()])
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            made.vcpu.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    rounds = 0
    while rounds < 20:
        with conversions.exclusive():
            rounds += bool(conversions.drain())
            for _ in range(100):
                assert conversions.drain() == []
    stop.set()
    with conversions.exclusive():
        conversions.serve([])
        conversions.drain()
    made.vcpu.kick()
    thread.join()
    assert conversions.drain() == []


def test_the_lock_is_not_taken_twice(guest: MakeGuest) -> None:
    conversions = guest(SPIN).vm.conversions
    with conversions.exclusive():
        with (
            pytest.raises(InternalError, match="this thread does so already"),
            conversions.exclusive(),
        ):
            raise AssertionError
        conversions.serve([])
        assert conversions.drain() == []
    with conversions.exclusive():
        pass
    order: list[str] = []
    waiting = threading.Event()

    def enter() -> None:
        waiting.set()
        with conversions.exclusive():
            order.append("other")

    with conversions.exclusive():
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        waiting.wait()
        thread.join(0.05)
        order.append("this")
    thread.join()
    assert order == ["this", "other"]


def test_an_error_inside_lets_others_in_again(guest: MakeGuest) -> None:
    conversions = guest(SPIN).vm.conversions
    with pytest.raises(UsageError), conversions.exclusive():
        raise UsageError("try", "it failed")
    with conversions.exclusive():
        pass


def test_spans_that_cannot_be(system: System, guest: MakeGuest) -> None:
    vm = guest(SPIN).vm
    size = 16 * PAGE
    with system.map_anonymous(size) as ram, vm.create_guest_memfd(size) as file:

        def span(gpa: int, pages: int = 1, hva: int = ram.hva, offset: int = 0) -> ServedSpan:
            return ServedSpan(gpa, pages * PAGE, hva, file, offset)

        most = [span(2 * PAGE * n) for n in range(MOST_SPANS)]
        vm.conversions.serve(most)
        for bad in (
            [*most, span(1 << 30)],
            [span(1)],
            [span(0, 0)],
            [span(0, -1)],
            [span(0, hva=ram.hva + 1)],
            [span(0, offset=1)],
            [span(0, offset=-PAGE)],
            [span(-PAGE)],
            [span(0, 17)],
            [span(0, 1, offset=size)],
            [span(PAGE, 2), span(0, 2)],
            [span(0, 2), span(0, 2)],
            [span(2**64 - PAGE)],
            [ServedSpan(0, PAGE, 0)],
            [ServedSpan(0, PAGE, 0, touch_block=PAGE // 2)],
            [ServedSpan(0, PAGE, 0, touch_block=3 * PAGE)],
            [missing_span(span(0)._replace(guest_memfd=None, touch_block=PAGE), 1)],
            [missing_span(span(0), 1)._replace(size=2 * PAGE)],
            [missing_span(span(0), 1)._replace(in_place=True)],
            [ServedSpan(0, PAGE, 0, touch_block=PAGE, in_place=True)],
            [missing_span(span(0), 1)._replace(guest_memfd_offset=PAGE)],
        ):
            with pytest.raises(UsageError):
                vm.conversions.serve(bad)
    with pytest.raises(UsageError, match="no open guest_memfd"):
        vm.conversions.serve([ServedSpan(0, PAGE, PAGE, file)])
    vm.conversions.serve([])
    vm.close()
    vm.conversions.serve([])
    assert vm.conversions.drain() == []


def test_a_closed_vm_serves_nothing(system: System, private_guest: MakePrivateGuest) -> None:
    made = private_guest()
    made.vm.conversions.serve([made.span()])
    assert take(made.vm, DATA, 1, TO_PRIVATE)
    made.vm.close()
    assert not take(made.vm, DATA, 1, TO_SHARED)
    with pytest.raises(InternalError, match="closed"):
        made.vm.conversions.serve([made.span()])
    assert made.vm.conversions.drain() == [Converted(DATA, PAGE, True)]


def run_private(made: PrivateGuest, code: bytes) -> None:
    made.stage(code)
    made.vm.conversions.serve([made.span()])


def test_private_code_converts(private_guest: MakePrivateGuest) -> None:
    made = private_guest(go_private())
    run_private(
        made,
        convert(DATA, 2, TO_PRIVATE)
        + OUT_EAX
        + store(DATA, 0x4444)
        + report(DATA)
        + convert(DATA, 2, TO_SHARED)
        + OUT_EAX
        + report(DATA)
        + FINISH,
    )
    assert [made.vcpu.run() for _ in range(5)] == [
        told(0), told(0x4444), told(0), told(0), FINISHED,
    ]  # fmt: skip
    assert made.private_size(0, RAM_SIZE) == 4 * PAGE
    counts = made.vcpu.exit_counts()
    assert counts == {"IO": 5, "CONVERTED": 3} | completions(made)
    assert completions(made).get("HYPERCALL_COMPLETED", 0) in {0, 2}
    assert {record.name for record in made.vcpu.recent_exits()} == {"IO", "HYPERCALL"}


def test_private_code_is_answered_by_python(private_guest: MakePrivateGuest) -> None:
    made = private_guest(go_private())
    # What the registers hold must survive it: RSI and the flags (`cmp rsi, rsi`) as well.
    made.stage(
        set_register("rsi", 0x1234_5678_9ABC_DEF0)
        + bytes.fromhex("4839f6")
        + convert(DATA, 1, TO_PRIVATE)
        + bytes.fromhex("7404")  # je past the next two
        + FINISH
        + FINISH
        + OUT_EAX
        + bytes.fromhex("4889f0")  # mov rax, rsi
        + OUT_EAX
        + repeat(convert(DATA, 1, TO_SHARED) + OUT_EAX)
    )
    made.vm.conversions.serve([made.span(PRIVATE, 4 * PAGE)])
    assert made.vcpu.run() == asked(DATA, 1, TO_PRIVATE)
    made.vcpu.answer_hypercall(0x77)
    assert made.vcpu.run() == told(0x77)
    assert made.vcpu.run() == told(0x9ABC_DEF0)
    for value in range(5):
        assert made.vcpu.run() == asked(DATA, 1, TO_SHARED)
        made.vcpu.answer_hypercall(value)
        assert made.vcpu.run() == told(value)
    assert "INTERNAL_ERROR" not in made.vcpu.exit_counts()


def test_a_hypercall_of_private_code_is_completed(private_guest: MakePrivateGuest) -> None:
    made = private_guest(go_private())
    made.stage(convert(DATA, 1, TO_SHARED) + OUT_EAX + FINISH)
    made.vm.conversions.serve([made.span(PRIVATE, 4 * PAGE)])
    assert made.vcpu.run() == asked(DATA, 1, TO_SHARED)
    made.vcpu.answer_hypercall(0x55)
    made.vcpu.complete()
    regs = made.vcpu.get_regs()
    assert regs.rax == 0x55
    assert regs.rip == PRIVATE_CODE + len(convert(DATA, 1, TO_SHARED))
    made.vcpu.complete()
    assert made.vcpu.get_regs() == regs
    assert made.vcpu.run() == told(0x55)
    assert made.vcpu.run() == exits.IoOut(0x62, 1, 1, b"\x55")


def test_a_kick_comes_between_a_hypercall_and_what_follows(
    private_guest: MakePrivateGuest,
) -> None:
    made = private_guest(go_private())
    made.stage(convert(DATA, 1, TO_SHARED) + OUT_EAX + FINISH)
    made.vm.conversions.serve([made.span(PRIVATE, 4 * PAGE)])
    assert made.vcpu.run() == asked(DATA, 1, TO_SHARED)
    made.vcpu.answer_hypercall(0x66)
    made.vcpu.kick()
    assert made.vcpu.run() == exits.Interrupted()
    assert made.vcpu.run() == told(0x66)


@pytest.mark.parametrize("wanted", [SyncRegs(0), SyncRegs.SREGS, SyncRegs.REGS | SyncRegs.SREGS])
def test_shared_registers_stay_as_asked_for(
    private_guest: MakePrivateGuest, wanted: SyncRegs
) -> None:
    made = private_guest(go_private())
    made.stage(convert(DATA, 1, TO_SHARED) + OUT_EAX + FINISH)
    made.vm.conversions.serve([made.span(PRIVATE, 4 * PAGE)])
    assert made.vcpu.synced().regs is None
    made.vcpu.enable_sync(wanted)
    assert made.vcpu.run() == asked(DATA, 1, TO_SHARED)
    synced = made.vcpu.synced()
    assert (synced.regs is not None) == (SyncRegs.REGS in wanted)
    assert (synced.sregs is not None) == (SyncRegs.SREGS in wanted)
    if synced.regs is not None:
        assert synced.regs == made.vcpu.get_regs()
    made.vcpu.answer_hypercall(0x88)
    assert made.vcpu.run() == told(0x88)
    assert made.vcpu.exit_counts()["IO"] == 1


@pytest.mark.parametrize("between", [b"", convert(DATA, 1, TO_SHARED)])
def test_an_internal_error_after_a_hypercall_is_still_one(
    private_guest: MakePrivateGuest, between: bytes
) -> None:
    made = private_guest(go_private())
    # cpuid, which KVM has to get past by decoding as well where the processor does not help
    run_private(made, between + bytes.fromhex("0fa2") + FINISH)
    seen = made.vcpu.run()
    if isinstance(seen, exits.IoOut):
        pytest.skip("this processor tells KVM the next instruction's address")
    assert isinstance(seen, exits.KvmInternalError)
    assert made.vcpu.get_regs().rip == PRIVATE_CODE + len(between)
    counts = made.vcpu.exit_counts()
    assert counts["INTERNAL_ERROR"] == 1
    assert counts.get("HYPERCALL_COMPLETED", 0) == (1 if between else 0)
