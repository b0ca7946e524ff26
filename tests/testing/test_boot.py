# SPDX-License-Identifier: MIT
"""Guests booted by the plugin's fixtures, as a test has them, on the host that is there."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import ImageError, NoInputError, UsageError
from pyvmm.testing import console
from pyvmm.testing.async_boots import AsyncBoots
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import EventName, OutcomeKind
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.failures import ExpectError, GuestFailedError
from tests.machine.in_trio import in_trio

HOSTS = pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])


@HOSTS
def test_a_guest_says_something_and_ends(boot: Boots, host: str) -> None:
    with boot("exit", append="9", host=host) as vm:
        outcome = vm.wait()
    assert (outcome.kind, outcome.status) == (OutcomeKind.EXITED, 9)
    assert vm.host is HostName(host)


@HOSTS
def test_a_guest_is_waited_for_and_talked_to(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send_line("first")
        assert vm.console.expect("first").before == b""
        vm.console.send_line("second")
        match = vm.console.expect(re.compile(r"(\w+)d\b"))
        assert (match[0], match[1]) == ("second", "secon")
        vm.console.end_input()
        assert vm.wait().status == 0
    assert vm.console.transcript == b"first\nsecond\n"


@in_trio
async def test_a_guest_in_the_tests_own_loop() -> None:
    async with AsyncBoots()("echo") as vm:
        await vm.console.send_line("hello")
        assert (await vm.console.read_line()) == "hello"
        await vm.console.end_input()
        assert (await vm.wait()).status == 0
        assert [event.name for event in vm.events.all] == [EventName.ENDED]


def test_a_guest_that_ends_ends_what_waits_for_it(boot: Boots) -> None:
    with boot("hello") as vm, pytest.raises(ExpectError) as raised:
        vm.console.expect("memory: none")
    told = str(raised.value)
    assert "the guest ended without it: the guest ended with status 0" in told
    assert "  | command line: " in told


def test_an_error_names_the_limit_that_has_passed(boot: Boots) -> None:
    with boot("hang", timeout=50) as vm, pytest.raises(ExpectError, match="this call's own"):
        vm.console.expect("never", timeout=0.05)
    with (
        boot("hang", timeout=0.1) as vm,
        pytest.raises(ExpectError, match=r"within 0\.1 s, the boot"),
    ):
        vm.console.expect("never", timeout=50)
    with (
        boot("hang", timeout=0.1) as vm,
        pytest.raises(ExpectError, match=r"within 0\.1 s, the boot"),
    ):
        vm.wait()


def test_a_search_that_takes_long_is_told_and_not_repeated(
    boot: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LONG", 0.0)
    pattern = re.compile("HANGING")
    with boot("hang") as vm, pytest.raises(ExpectError) as caught:
        vm.console.expect("hanging")
        vm.console.expect(pattern, timeout=0.05)
    assert re.search(
        r"time limit; one search of what was said took \d+\.\d s, and no time limit interrupts",
        caught.value.reason,
    )
    compared: list[object] = []
    monkeypatch.setattr(console, "nearest", lambda patterns, *_: compared.extend(patterns) or "")
    for limit, hints in ((0.0, []), (1000.0, [pattern])):
        monkeypatch.setattr(console, "_LONG", limit)
        with boot("hang") as vm, pytest.raises(ExpectError):
            vm.console.expect(pattern, timeout=0.05)
        assert compared == hints


def test_a_panic_fails_a_test_that_did_not_look(boot: Boots) -> None:
    with pytest.raises(GuestFailedError, match=r"has panicked(.|\n)*\| PANIC"), boot("panic") as vm:
        with pytest.raises(ExpectError, match="the guest ended without it"):
            vm.console.expect("never")


def test_a_panic_that_was_looked_at_or_meant_fails_nothing(boot: Boots) -> None:
    with boot("panic") as vm:
        assert vm.wait().kind is OutcomeKind.PANICKED
    with boot("panic", crash=True) as vm:
        vm.events.wait_for(EventName.PANICKED)


def test_an_image_that_is_none(boot: Boots) -> None:
    with pytest.raises(NoInputError, match=r"no bundled guest of that name; give .*hello"):
        boot("helo")
    with pytest.raises(UsageError, match="a path, the name of a bundled guest, or bytes"):
        boot(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["int main(void)\n{\n\treturn 0;\r\n}\n", "é", "\x1b[1m"])
def test_a_file_of_text_is_no_image(boot: Boots, tmp_path: Path, text: str) -> None:
    source = tmp_path / "kernel.c"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(ImageError, match=r"kernel\.c': it is text, and no image; give what is"):
        boot(source)
    assert boot(text.encode()).request.image == text.encode()
    for flat in (b"\xf4", b"text\0", b"text\xff"):
        source.write_bytes(flat)
        assert boot(source).request.image == flat


def test_an_initrd_that_is_none(boot: Boots, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"initrd='/nosuch': .*; give a path, or the initrd's"):
        boot("hello", initrd="/nosuch")
    with pytest.raises(UsageError, match="initrd=5: an initrd is a path, or bytes"):
        boot("hello", initrd=5)  # type: ignore[arg-type]
    (tmp_path / "text").write_bytes(b"text")
    assert boot("hello", initrd=tmp_path / "text").request.initrd == b"text"


def test_arguments_that_are_none(boot: Boots) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'memry'; there is memory$"):
        boot("hello", memry="64M")  # type: ignore[call-arg]
    values: list[dict[str, Any]] = [
        {"memory": "lots"},
        {"host": "mars"},
        {"timeout": 0},
        {"cpus": 0},
        {"append": 9},
    ]
    for wrong in values:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            boot("hello", **wrong)


def test_what_is_neither_text_nor_bytes(boot: Boots) -> None:
    with boot("echo") as vm:
        for call in (vm.console.send, vm.console.send_line):
            with pytest.raises(UsageError, match="cannot send 5: what is typed is text or bytes"):
                call(5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot write to guest memory: 'text' is not bytes"):
            vm.memory.write(0x1000, "text")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot search guest memory: 'text' is not bytes"):
            vm.memory.search("text")  # type: ignore[arg-type]


@HOSTS
def test_a_guest_is_saved_and_goes_on_from_there_again(boot: Boots, host: str) -> None:
    with boot("echo", host=host) as vm:
        vm.console.send_line("one")
        vm.console.expect("one\n")
        saved = vm.save()
        vm.memory.write(0x1000, b"other")
        vm.restore(saved)
        assert vm.memory.read(0x1000, 5) != b"other"
        vm.console.send_line("two")
        assert vm.console.expect("two\n").before == b""


@in_trio
async def test_a_block_that_is_never_left_ends_with_its_fixture_in_a_loop_that_goes_on() -> None:
    boots = AsyncBoots()
    vm = await boots("hang").__aenter__()
    await vm.console.expect("hanging")
    boots.close()
    with pytest.raises(UsageError, match="block has been left"):
        while True:
            await vm.registers()


def test_of_boots_that_are_over_nothing_is_kept(boot: Boots) -> None:
    gone = []
    for status in range(5):
        with boot("exit", append=str(status)) as vm:
            assert vm.wait().status == status
        gone.append(weakref.ref(vm._inner))
    del vm
    gc.collect()
    # What the last one has may still be held by the loop's thread, until it does something else.
    assert [one() for one in gone[:-1]] == [None] * 4
