# SPDX-License-Identifier: MIT
"""A booted guest from a test's side, in a trio task."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pyvmm.errors import ConversionRefusedError, UsageError
from pyvmm.testing.async_boots import AsyncBoots
from pyvmm.testing.drivers.driver import CannotError, EventName, Feature, OutcomeKind
from pyvmm.testing.failures import ExpectError, GuestFailedError
from tests.cli.flat import counted, counting
from tests.machine.guests import COUNT, EXIT_42, PRINT_AND_SPIN, SPIN
from tests.machine.in_trio import in_trio


@pytest.fixture
def async_boot() -> Iterator[AsyncBoots]:
    boots = AsyncBoots()
    yield boots
    boots.close()


each_host = pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])


# -- the console --


@in_trio
async def test_of_several_patterns_the_match_says_which(async_boot: AsyncBoots) -> None:
    async with async_boot("hello") as vm:
        match = await vm.console.expect(["nobody", re.compile(r"from (a) pyvmm"), b"usable"])
        assert (match.index, match[1], match.before) == (1, "a", b"Hello ")
        match = await vm.console.expect([b"usable", "nobody"])
        assert (match.index, match.pattern) == (0, b"usable")


@in_trio
async def test_nothing_is_matched_twice(async_boot: AsyncBoots) -> None:
    async with async_boot("hello") as vm:
        for _ in range(3):
            await vm.console.expect("memory ")
        with pytest.raises(ExpectError, match="'memory ' was said before the last match"):
            await vm.console.expect("memory ")


@in_trio
async def test_all_of_several_in_whatever_order(async_boot: AsyncBoots) -> None:
    async with async_boot("hello", append="last") as vm:
        usable, hello = await vm.console.expect_all(["usable memory", "Hello"])
        assert (usable.index, hello.index) == (0, 1)
        assert hello.start == 0
        assert (await vm.console.expect("last")).start > usable.end
        with pytest.raises(ExpectError, match="expect 'nobody'"):
            await vm.console.expect_all(["nobody", "no one"])


@in_trio
async def test_what_is_forbidden_ends_the_wait(async_boot: AsyncBoots) -> None:
    async with async_boot("hang") as vm:
        with pytest.raises(ExpectError, match="it said 'hang', which is forbidden"):
            await vm.console.expect("never", forbid=["nobody", "hang"])
        # What is forbidden behind the match does not count.
        await vm.console.expect("hang", forbid="hanging\n")


@in_trio
async def test_reading_by_lines_and_up_to_a_pattern(async_boot: AsyncBoots) -> None:
    async with async_boot("echo") as vm:
        await vm.console.send(b"one\r\ntwo: three\nfour")
        assert await vm.console.read_line() == "one"
        assert await vm.console.read_until(": ") == b"two: "
        assert await vm.console.read_line() == "three"
        with pytest.raises(ExpectError, match=r"read a line: not within 0\.05 s, this call's own"):
            await vm.console.read_line(timeout=0.05)
        await vm.console.end_input()
        assert await vm.console.read_line() == "four"
        with pytest.raises(ExpectError, match="read a line: the guest ended: "):
            await vm.console.read_line()


@in_trio
async def test_what_has_come_can_be_gone_over(async_boot: AsyncBoots) -> None:
    async with async_boot("echo") as vm:
        await vm.console.send_line("one two")
        await vm.console.expect("one")
        while not vm.console.transcript.endswith(b"\n"):
            await vm.registers()
        assert vm.console.drop() == b" two\n"
        await vm.console.send_line("three")
        assert (await vm.console.expect("three")).before == b""
        assert vm.console.transcript.startswith(b"one two\nthree")


@in_trio
async def test_output_that_is_no_text(async_boot: AsyncBoots) -> None:
    async with async_boot(counting(20_000)) as vm:
        match = await vm.console.expect(re.compile(rb"\xfd\xfe\xff\x00"))
        assert match.start == 253
        match = await vm.console.expect(re.compile("\udcfe\udcff\0"))
        assert match.start == 254 + 256
        with pytest.raises(ExpectError) as raised:
            await vm.console.expect("no such text")
        assert r"\xff\x00\x01" in str(raised.value)
        assert (await vm.wait()).status == 7
    assert vm.console.transcript == counted(20_000)


@in_trio
async def test_output_without_end_and_without_a_line(async_boot: AsyncBoots) -> None:
    # mov al, 'x'; l: out 0xe9, al; jmp l
    async with async_boot(bytes.fromhex("b078 e6e9 ebfc")) as vm:
        await vm.console.expect("x" * 20_000)
        with pytest.raises(ExpectError, match="this call's own") as raised:
            await vm.console.expect(["y", re.compile("[^x]"), re.compile(b"x{9}y")], timeout=0.1)
        assert len(str(raised.value)) < 3000
        with pytest.raises(ExpectError, match="read a line"):
            await vm.console.read_line(timeout=0.05)


# -- ends and limits --


@in_trio
async def test_what_was_said_before_the_end_is_matched_before_it_is_told(
    async_boot: AsyncBoots,
) -> None:
    async with async_boot("panic", crash=True) as vm:
        await vm.events.wait_for("ended")
        await vm.console.expect("PANIC")
        with pytest.raises(ExpectError, match=r"the guest ended without it: .*panic"):
            await vm.console.expect("PANIC")


@in_trio
async def test_a_pattern_that_the_next_letter_could_change_is_explained(
    async_boot: AsyncBoots,
) -> None:
    async with async_boot(PRINT_AND_SPIN) as vm:
        with pytest.raises(ExpectError, match=r"leave `.` out, or match what follows"):
            await vm.console.expect(re.compile("OK$"), timeout=0.1)
        assert (await vm.console.expect(re.compile("O[A-Z]"))).data == b"OK"


@in_trio
async def test_time_that_is_no_time(async_boot: AsyncBoots) -> None:
    async with async_boot(SPIN) as vm:
        for timeout in (-1, "soon", float("nan")):
            with pytest.raises(UsageError, match="number of seconds"):
                await vm.wait(timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(ExpectError, match="not within 0 s, this call's own time limit"):
            await vm.wait(timeout=0)


@in_trio
async def test_an_outcome_is_taken_by_waiting_for_it(async_boot: AsyncBoots) -> None:
    async with async_boot(EXIT_42) as vm:
        outcome = await vm.wait()
    assert (outcome.kind, outcome.status) == (OutcomeKind.EXITED, 42)
    assert vm.outcome == outcome
    with pytest.raises(GuestFailedError, match="crashed"):
        async with async_boot("triple") as vm:
            with pytest.raises(ExpectError, match="ended without it: triple fault"):
                await vm.console.expect("never")
    async with async_boot("triple") as vm:
        assert (await vm.wait()).kind is OutcomeKind.CRASHED


@in_trio
async def test_what_the_test_raises_counts_before_what_became_of_the_guest(
    async_boot: AsyncBoots,
) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with async_boot("triple") as vm:
            with pytest.raises(ExpectError):
                await vm.console.expect("never")
            raise KeyError("mine")


@in_trio
async def test_a_guest_whose_block_was_left(async_boot: AsyncBoots) -> None:
    async with async_boot("hello") as vm:
        await vm.console.expect("Hello")
    assert vm.console.transcript.startswith(b"Hello")
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        await vm.memory.read(0, 1)
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        await vm.console.expect("usable")
    with pytest.raises(UsageError, match="block has been left, and it is gone"):
        await vm.wait()


# -- steering, and looking inside --


@each_host
@in_trio
async def test_a_guest_is_stopped_and_goes_on(async_boot: AsyncBoots, host: str) -> None:
    async with async_boot(COUNT, host=host) as vm:
        await vm.stop()
        assert (await vm.events.wait_for("paused")).name is EventName.PAUSED
        before = (await vm.registers()).values
        assert before == (await vm.registers(0)).values
        assert before["rip"] in range(0x7C00, 0x7C05)
        await vm.resume()
        await vm.events.wait_for("resumed")
        while (await vm.registers()).values["rbx"] == before["rbx"]:
            pass
        with pytest.raises(UsageError, match="look at vCPU 1: the machine has 1"):
            await vm.registers(1)


@in_trio
async def test_waiting_for_a_guest_that_is_stopped_says_so(async_boot: AsyncBoots) -> None:
    stopped = r"not within 0 s, this call's own time limit; the guest is stopped, and vm.resume"
    async with async_boot("echo", paused=True) as vm:
        with pytest.raises(ExpectError, match=stopped):
            await vm.console.expect("one", timeout=0)
        await vm.resume()
        await vm.console.send_line("one")
        await vm.console.expect("one")
        with pytest.raises(ExpectError, match=r"time limit\n"):
            await vm.wait(timeout=0)
        await vm.stop()
        await vm.events.wait_for("paused")
        with pytest.raises(ExpectError, match=stopped):
            await vm.wait(timeout=0)


@each_host
@in_trio
async def test_what_a_guest_that_has_ended_cannot_do(async_boot: AsyncBoots, host: str) -> None:
    async with async_boot("exit", append="9", host=host) as vm:
        with pytest.raises(ExpectError, match="has ended: the guest ended with status 9"):
            while True:
                await vm.registers()
        with pytest.raises(ExpectError, match="save the guest: the guest has ended: "):
            await vm.save()
        with pytest.raises(ExpectError, match="reset the guest: the guest has ended: "):
            await vm.reset()
        with pytest.raises(ExpectError, match="send b'x': the guest has ended: "):
            await vm.console.send(b"x")
        with pytest.raises(ExpectError, match="input: the guest has ended: "):
            await vm.console.end_input()
        for act in (vm.stop, vm.resume, vm.powerdown):
            with pytest.raises(ExpectError, match=": the guest has ended: "):
                await act()


@each_host
@in_trio
async def test_a_reset_and_the_power_button(async_boot: AsyncBoots, host: str) -> None:
    async with async_boot("echo", host=host) as vm:
        await vm.console.send_line("one")
        await vm.console.expect("one")
        await vm.reset()
        await vm.events.wait_for("reset")
        await vm.powerdown()
        await vm.events.wait_for("powerdown")
        await vm.console.send_line("two")
        await vm.console.expect("two")
        with pytest.raises(ExpectError, match="event 'panicked': not within 0 s, this call's own"):
            await vm.events.wait_for("panicked", timeout=0)
        assert [event.name for event in vm.events.all] == [EventName.RESET, EventName.POWERDOWN]


@in_trio
async def test_events_have_names(async_boot: AsyncBoots) -> None:
    async with async_boot(EXIT_42) as vm:
        with pytest.raises(UsageError, match="no such event; give one of paused, "):
            await vm.events.wait_for("panick")
        with pytest.raises(ExpectError, match=r"'panicked': the guest ended without it: .*42"):
            await vm.events.wait_for("panicked")
        assert (await vm.events.wait_for("ended")).detail == "the guest ended with status 42"
        with pytest.raises(ExpectError):
            await vm.events.wait_for("ended")


@each_host
@in_trio
async def test_memory_is_read_written_and_searched(async_boot: AsyncBoots, host: str) -> None:
    async with async_boot(SPIN, host=host, memory="16M") as vm:
        assert sum(size for _, size in vm.memory.ranges) > 15 << 20
        places = (0x1000, 0x5000, (4 << 20) - 3, (5 << 20) - 3, (8 << 20) - 3)
        for gpa in places:
            await vm.memory.write(gpa, b"needle")
        assert await vm.memory.read(0x1001, 4) == b"eedl"
        assert await vm.memory.search(b"needle") == places
        assert await vm.memory.search(b"needles") == ()
        await vm.memory.write(0x5006, b"needle")
        assert (await vm.memory.search(b"needleneedle")) == (0x5000,)
        assert await vm.memory.search(b"eneedl") == (0x5005,)
        with pytest.raises(UsageError, match="no RAM at gpa 0x1000000"):
            await vm.memory.read((16 << 20) - 2, 4)
        with pytest.raises(UsageError, match="nothing to search for"):
            await vm.memory.search(b"")


@in_trio
async def test_what_is_private_is_refused_and_named(async_boot: AsyncBoots) -> None:
    async with async_boot("secret", private=True, host="model", append="host=0") as vm:
        match = await vm.console.expect(re.compile(r"secret at (0x[0-9a-f]+), "))
        page = int(match[1], 16)
        assert (await vm.wait()).status == 0
    async with async_boot("hang", private=True, host="model") as vm:
        await vm.console.expect("hanging")
        await vm.stop()
        states = await vm.page_states()
        assert any(gpa <= page < gpa + size and state == "private" for gpa, size, state in states)
        with pytest.raises(UsageError, match=f"the page at gpa {page:#x} is private"):
            await vm.memory.read(page, 8)
        with pytest.raises(UsageError, match="is private, and the host does not see it"):
            await vm.memory.search(b"hanging")
        assert await vm.memory.search(b"no such text in there", skip_private=True) == ()
        await vm.convert(page, 4096, "shared")
        assert await vm.memory.read(page, 8) == bytes(8)
        await vm.memory.write(page, b"seen")
        assert page in await vm.memory.search(b"seen", skip_private=True)
        with pytest.raises(UsageError, match='"shared" or "private"'):
            await vm.convert(page, 4096, "public")
        with pytest.raises(ConversionRefusedError):
            await vm.convert(page + 1, 4096, "private")
        with pytest.raises(CannotError, match="measured once"):
            await vm.reset()
        with pytest.raises(CannotError, match="the host cannot read private memory"):
            await vm.save()


@in_trio
async def test_private_memory_where_there_is_none_is_a_reason_to_skip(
    async_boot: AsyncBoots,
) -> None:
    async with async_boot(SPIN, host="model") as vm:
        with pytest.raises(CannotError, match="the machine has no private memory") as raised:
            await vm.convert(0, 4096, "private")
    assert raised.value.feature is Feature.PAGE_STATES


@each_host
@in_trio
async def test_a_saved_guest_is_restored(async_boot: AsyncBoots, host: str) -> None:
    async with async_boot("echo", host=host) as vm:
        await vm.console.send_line("one")
        await vm.console.expect("one\n")
        saved = await vm.save()
        await vm.memory.write(0x1000, b"other")
        await vm.restore(saved)
        assert await vm.memory.read(0x1000, 5) != b"other"
        await vm.console.send_line("two")
        assert (await vm.console.expect("two\n")).before == b""
        with pytest.raises(UsageError, match="it is no machine that pyvmm saved"):
            await vm.restore(b"no machine")
