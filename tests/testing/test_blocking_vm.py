# SPDX-License-Identifier: MIT
"""A booted guest from a synchronous test's side. Made of `test_async_vm`: not to be edited."""

from __future__ import annotations

import re

import pytest

from pyvmm.errors import ConversionRefusedError, UsageError
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import CannotError, EventName, Feature, OutcomeKind
from pyvmm.testing.failures import ExpectError, GuestFailedError
from tests.cli.flat import counted, counting
from tests.machine.guests import COUNT, EXIT_42, PRINT_AND_SPIN, SPIN

pytestmark = pytest.mark.slow
each_host = pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])


# -- the console --


def test_of_several_patterns_the_match_says_which(boot: Boots) -> None:
    with boot("hello") as vm:
        match = vm.console.expect(["nobody", re.compile(r"from (a) pyvmm"), b"usable"])
        assert (match.index, match[1], match.before) == (1, "a", b"Hello ")
        match = vm.console.expect([b"usable", "nobody"])
        assert (match.index, match.pattern) == (0, b"usable")


def test_nothing_is_matched_twice(boot: Boots) -> None:
    with boot("hello") as vm:
        for _ in range(3):
            vm.console.expect("memory ")
        with pytest.raises(ExpectError, match="'memory ' was said before the last match"):
            vm.console.expect("memory ")


def test_all_of_several_in_whatever_order(boot: Boots) -> None:
    with boot("hello", append="last") as vm:
        usable, hello = vm.console.expect_all(["usable memory", "Hello"])
        assert (usable.index, hello.index) == (0, 1)
        assert hello.start == 0
        assert (vm.console.expect("last")).start > usable.end
        with pytest.raises(ExpectError, match="expect 'nobody'"):
            vm.console.expect_all(["nobody", "no one"])


def test_what_is_forbidden_ends_the_wait(boot: Boots) -> None:
    with boot("hang") as vm:
        with pytest.raises(ExpectError, match="it said 'hang', which is forbidden"):
            vm.console.expect("never", forbid=["nobody", "hang"])
        # What is forbidden behind the match does not count.
        vm.console.expect("hang", forbid="hanging\n")


def test_reading_by_lines_and_up_to_a_pattern(boot: Boots) -> None:
    with boot("echo") as vm:
        vm.console.send(b"one\r\ntwo: three\nfour")
        assert vm.console.read_line() == "one"
        assert vm.console.read_until(": ") == b"two: "
        assert vm.console.read_line() == "three"
        with pytest.raises(ExpectError, match=r"read a line: not within 0\.05 s, this call's own"):
            vm.console.read_line(timeout=0.05)
        vm.console.end_input()
        assert vm.console.read_line() == "four"
        with pytest.raises(ExpectError, match="read a line: the guest ended: "):
            vm.console.read_line()


def test_what_has_come_can_be_gone_over(boot: Boots) -> None:
    with boot("echo") as vm:
        vm.console.send_line("one two")
        vm.console.expect("one")
        while not vm.console.transcript.endswith(b"\n"):
            vm.registers()
        assert vm.console.drop() == b" two\n"
        vm.console.send_line("three")
        assert (vm.console.expect("three")).before == b""
        assert vm.console.transcript.startswith(b"one two\nthree")


def test_output_that_is_no_text(boot: Boots) -> None:
    with boot(counting(20_000)) as vm:
        match = vm.console.expect(re.compile(rb"\xfd\xfe\xff\x00"))
        assert match.start == 253
        match = vm.console.expect(re.compile("\udcfe\udcff\0"))
        assert match.start == 254 + 256
        with pytest.raises(ExpectError) as raised:
            vm.console.expect("no such text")
        assert r"\xff\x00\x01" in str(raised.value)
        assert (vm.wait()).status == 7
    assert vm.console.transcript == counted(20_000)


def test_output_without_end_and_without_a_line(boot: Boots) -> None:
    # mov al, 'x'; l: out 0xe9, al; jmp l
    with boot(bytes.fromhex("b078 e6e9 ebfc")) as vm:
        vm.console.expect("x" * 20_000)
        with pytest.raises(ExpectError, match="this call's own") as raised:
            vm.console.expect(["y", re.compile("[^x]"), re.compile(b"x{9}y")], timeout=0.1)
        assert len(str(raised.value)) < 3000
        with pytest.raises(ExpectError, match="read a line"):
            vm.console.read_line(timeout=0.05)


# -- ends and limits --


def test_what_was_said_before_the_end_is_matched_before_it_is_told(
    boot: Boots,
) -> None:
    with boot("panic", crash=True) as vm:
        vm.events.wait_for("ended")
        vm.console.expect("PANIC")
        with pytest.raises(ExpectError, match=r"the guest ended without it: .*panic"):
            vm.console.expect("PANIC")


def test_a_pattern_that_the_next_letter_could_change_is_explained(
    boot: Boots,
) -> None:
    with boot(PRINT_AND_SPIN) as vm:
        with pytest.raises(ExpectError, match=r"leave `.` out, or match what follows"):
            vm.console.expect(re.compile("OK$"), timeout=0.1)
        assert (vm.console.expect(re.compile("O[A-Z]"))).data == b"OK"


def test_time_that_is_no_time(boot: Boots) -> None:
    with boot(SPIN) as vm:
        for timeout in (-1, "soon", float("nan")):
            with pytest.raises(UsageError, match="number of seconds"):
                vm.wait(timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(ExpectError, match="not within 0 s, this call's own time limit"):
            vm.wait(timeout=0)


def test_an_outcome_is_taken_by_waiting_for_it(boot: Boots) -> None:
    with boot(EXIT_42) as vm:
        outcome = vm.wait()
    assert (outcome.kind, outcome.status) == (OutcomeKind.EXITED, 42)
    assert vm.outcome == outcome
    with pytest.raises(GuestFailedError, match="crashed"):
        with boot("triple") as vm:
            with pytest.raises(ExpectError, match="ended without it: triple fault"):
                vm.console.expect("never")
    with boot("triple") as vm:
        assert (vm.wait()).kind is OutcomeKind.CRASHED


def test_what_the_test_raises_counts_before_what_became_of_the_guest(
    boot: Boots,
) -> None:
    with pytest.raises(KeyError, match="mine"):
        with boot("triple") as vm:
            with pytest.raises(ExpectError):
                vm.console.expect("never")
            raise KeyError("mine")


def test_a_guest_whose_block_was_left(boot: Boots) -> None:
    with boot("hello") as vm:
        vm.console.expect("Hello")
    assert vm.console.transcript.startswith(b"Hello")
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        vm.memory.read(0, 1)
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        vm.console.expect("usable")
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        vm.wait()


# -- steering, and looking inside --


@each_host
def test_a_guest_is_stopped_and_goes_on(boot: Boots, host: str) -> None:
    with boot(COUNT, host=host) as vm:
        vm.stop()
        assert (vm.events.wait_for("paused")).name is EventName.PAUSED
        before = (vm.registers()).values
        assert before == (vm.registers(0)).values
        assert before["rip"] in range(0x7C00, 0x7C05)
        vm.resume()
        vm.events.wait_for("resumed")
        while (vm.registers()).values["rbx"] == before["rbx"]:
            pass
        with pytest.raises(UsageError, match="look at vCPU 1: the machine has 1"):
            vm.registers(1)


def test_waiting_for_a_guest_that_is_stopped_says_so(boot: Boots) -> None:
    stopped = r"not within 0 s, this call's own time limit; the guest is stopped, and vm.resume"
    with boot("echo", paused=True) as vm:
        with pytest.raises(ExpectError, match=stopped):
            vm.console.expect("one", timeout=0)
        vm.resume()
        vm.console.send_line("one")
        vm.console.expect("one")
        with pytest.raises(ExpectError, match=r"time limit\n"):
            vm.wait(timeout=0)
        vm.stop()
        vm.events.wait_for("paused")
        with pytest.raises(ExpectError, match=stopped):
            vm.wait(timeout=0)


@each_host
def test_what_a_guest_that_has_ended_cannot_do(boot: Boots, host: str) -> None:
    with boot("exit", append="9", host=host) as vm:
        with pytest.raises(ExpectError, match="has ended: the guest ended with status 9"):
            while True:
                vm.registers()
        with pytest.raises(ExpectError, match="save the guest: the guest has ended: "):
            vm.save()
        with pytest.raises(ExpectError, match="reset the guest: the guest has ended: "):
            vm.reset()
        with pytest.raises(ExpectError, match="send b'x': the guest has ended: "):
            vm.console.send(b"x")
        with pytest.raises(ExpectError, match="input: the guest has ended: "):
            vm.console.end_input()
        for act in (vm.stop, vm.resume, vm.powerdown):
            with pytest.raises(ExpectError, match=": the guest has ended: "):
                act()


@each_host
def test_a_reset_and_the_power_button(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send_line("one")
        vm.console.expect("one")
        vm.reset()
        vm.events.wait_for("reset")
        vm.powerdown()
        vm.events.wait_for("powerdown")
        vm.console.send_line("two")
        vm.console.expect("two")
        with pytest.raises(ExpectError, match="event 'panicked': not within 0 s, this call's own"):
            vm.events.wait_for("panicked", timeout=0)
        assert [event.name for event in vm.events.all] == [EventName.RESET, EventName.POWERDOWN]


def test_events_have_names(boot: Boots) -> None:
    with boot(EXIT_42) as vm:
        with pytest.raises(UsageError, match="no such event; give one of paused, "):
            vm.events.wait_for("panick")
        with pytest.raises(ExpectError, match=r"'panicked': the guest ended without it: .*42"):
            vm.events.wait_for("panicked")
        assert (vm.events.wait_for("ended")).detail == "the guest ended with status 42"
        with pytest.raises(ExpectError):
            vm.events.wait_for("ended")


@each_host
def test_memory_is_read_written_and_searched(boot: Boots, host: str) -> None:
    with boot(SPIN, host=host, memory="16M") as vm:
        assert sum(size for _, size in vm.memory.ranges) > 15 << 20
        places = (0x1000, 0x5000, (4 << 20) - 3, (5 << 20) - 3, (8 << 20) - 3)
        for gpa in places:
            vm.memory.write(gpa, b"needle")
        assert vm.memory.read(0x1001, 4) == b"eedl"
        assert vm.memory.search(b"needle") == places
        assert vm.memory.search(b"needles") == ()
        vm.memory.write(0x5006, b"needle")
        assert (vm.memory.search(b"needleneedle")) == (0x5000,)
        assert vm.memory.search(b"eneedl") == (0x5005,)
        with pytest.raises(UsageError, match="no RAM at gpa 0x1000000"):
            vm.memory.read((16 << 20) - 2, 4)
        with pytest.raises(UsageError, match="nothing to search for"):
            vm.memory.search(b"")


def test_what_is_private_is_refused_and_named(boot: Boots) -> None:
    with boot("secret", private=True, host="model", append="host=0") as vm:
        match = vm.console.expect(re.compile(r"secret at (0x[0-9a-f]+), "))
        page = int(match[1], 16)
        assert (vm.wait()).status == 0
    with boot("hang", private=True, host="model") as vm:
        vm.console.expect("hanging")
        vm.stop()
        states = vm.page_states()
        assert any(gpa <= page < gpa + size and state == "private" for gpa, size, state in states)
        with pytest.raises(UsageError, match=f"the page at gpa {page:#x} is private"):
            vm.memory.read(page, 8)
        with pytest.raises(UsageError, match="is private, and the host does not see it"):
            vm.memory.search(b"hanging")
        assert vm.memory.search(b"no such text in there", skip_private=True) == ()
        vm.convert(page, 4096, "shared")
        assert vm.memory.read(page, 8) == bytes(8)
        vm.memory.write(page, b"seen")
        assert page in vm.memory.search(b"seen", skip_private=True)
        with pytest.raises(UsageError, match='"shared" or "private"'):
            vm.convert(page, 4096, "public")
        with pytest.raises(ConversionRefusedError):
            vm.convert(page + 1, 4096, "private")
        with pytest.raises(CannotError, match="measured once"):
            vm.reset()
        with pytest.raises(CannotError, match="the host cannot read private memory"):
            vm.save()


def test_private_memory_where_there_is_none_is_a_reason_to_skip(
    boot: Boots,
) -> None:
    with boot(SPIN, host="model") as vm:
        with pytest.raises(CannotError, match="the machine has no private memory") as raised:
            vm.convert(0, 4096, "private")
    assert raised.value.feature is Feature.PAGE_STATES


@each_host
def test_a_saved_guest_is_restored(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send_line("one")
        vm.console.expect("one\n")
        saved = vm.save()
        vm.memory.write(0x1000, b"other")
        vm.restore(saved)
        assert vm.memory.read(0x1000, 5) != b"other"
        vm.console.send_line("two")
        assert (vm.console.expect("two\n")).before == b""
        with pytest.raises(UsageError, match="it is no machine that pyvmm saved"):
            vm.restore(b"no machine")
