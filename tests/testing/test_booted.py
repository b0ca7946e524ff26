# SPDX-License-Identifier: MIT
"""Warm boots: a session boots a guest once to a point, and restores it for each test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.machine.loop_thread import LoopThread
from pyvmm.testing import saved_boots
from pyvmm.testing.blocking_vm import Vm
from pyvmm.testing.boots import Boots
from pyvmm.testing.drivers.driver import CannotError
from pyvmm.testing.failures import ExpectError
from pyvmm.testing.request import BootArguments, make_request
from pyvmm.testing.saved_boot_key import key_of
from pyvmm.testing.saved_boots import AsyncBooted, Booted, SavedBoots
from pyvmm.testing.vm import AsyncVm
from tests.machine.in_trio import in_trio

HOSTS = pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[SavedBoots]:
    with SavedBoots(tmp_path / "saved") as made:
        yield made


class Warm(Booted):
    """A factory that remembers what it told."""

    def __init__(self, loop: LoopThread, saved: SavedBoots) -> None:
        self.told: list[str] = []
        super().__init__(loop, saved, self.told.append)

    @property
    def how(self) -> list[str]:
        return [line.partition(":")[0] for line in self.told]


@pytest.fixture
def warm(_pyvmm_loop: LoopThread, saved: SavedBoots) -> Iterator[Warm]:
    made = Warm(_pyvmm_loop, saved)
    yield made
    made.close()


def greet(vm: Vm) -> None:
    vm.console.send_line("hello")
    vm.console.expect("hel")


async def greet_soon(vm: AsyncVm) -> None:
    await vm.console.send_line("hello")
    await vm.console.expect("hel")


@HOSTS
def test_each_test_starts_at_the_point_and_none_sees_another(warm: Warm, host: str) -> None:
    for number in range(3):
        with warm("echo", until=greet, host=host) as vm:
            assert vm.memory.read(0x1000, 4) != b"mine"
            vm.memory.write(0x1000, b"mine")
            vm.console.send_line(f"number {number}")
            # What the guest said behind the point, and before it was saved, is there to be read.
            assert vm.console.expect("number").before == b"lo\n"
            vm.console.end_input()
            assert vm.wait().status == 0
            assert vm.console.transcript == f"hello\nnumber {number}\n".encode()
    assert warm.how == ["booted", "restored", "restored"]
    name = {"kvm": "KVM", "model": "the model"}[host]
    assert re.fullmatch(
        rf"restored: echo on {name}, \d+\.\d{{3}} s behind its boot, at {__name__}\.greet in .*",
        warm.told[-1],
    )


def test_a_pattern_is_a_point_too(warm: Warm) -> None:
    for _ in range(2):
        with warm("hang", until=re.compile("hang(ed|ing)"), host="model") as vm:
            assert vm.console.read_line() == ""
            assert vm.console.transcript == b"hanging\n"
    with warm("hang", until=["never", b"hang"], host="model") as vm:
        assert vm.console.read_line() == "ing"
    assert warm.how == ["booted", "restored", "booted"]


def test_a_point_that_a_guest_runs_past_is_none(warm: Warm) -> None:
    with (
        pytest.raises(UsageError, match="exit at a point of its boot: the guest has ended; choose"),
        warm("exit", until=look_at_the_end, host="model"),
    ):
        raise AssertionError("it is there")


def look_at_the_end(vm: Vm) -> None:
    vm.wait()


@in_trio
async def test_asynchronous_tests_share_the_same_boots(tmp_path: Path) -> None:
    told: list[str] = []
    with SavedBoots(tmp_path / "saved") as saved:
        booted = AsyncBooted(saved, told.append)
        for _ in range(2):
            async with booted("echo", until=greet_soon, host="model") as vm:
                await vm.console.send_line("again")
                assert (await vm.console.expect("again")).before == b"lo\n"
    assert [line.partition(":")[0] for line in told] == ["booted", "restored"]


def test_another_process_of_the_session_finds_what_was_saved(
    _pyvmm_loop: LoopThread, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    with SavedBoots(folder) as first, SavedBoots(folder) as second:
        makers = Warm(_pyvmm_loop, first), Warm(_pyvmm_loop, second)
        for warm in makers:
            with warm("echo", until=greet, host="model") as vm:
                vm.console.send_line("here")
                vm.console.expect("here")
        assert [warm.how for warm in makers] == [["booted"], ["restored"]]
        (file,) = folder.glob("*.saved")
        assert file.stat().st_mode & 0o777 == 0o600
        second.close()
        assert file.exists()
    assert not folder.exists()


def test_who_comes_second_waits_until_the_first_has_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    seen: list[bool] = []

    def come_second() -> None:
        with second.lock("key") as locked:
            seen.append(locked and is_made)

    is_made = False
    with SavedBoots(folder) as first, SavedBoots(folder) as second:
        waiting = threading.Thread(target=come_second)
        with first.lock("key"):
            with second.lock("key", wait=False) as locked:
                assert not locked
            with second.lock("another", wait=False) as locked:
                assert locked
            waiting.start()
            is_made = True
        waiting.join()
    assert seen == [True]


def test_a_boot_that_fails_fails_each_test_at_once(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExpectError, match="never said"), warm("hello", until="never said"):
        raise AssertionError("it is there")
    monkeypatch.setattr(saved_boots, "Boot", None)  # Nothing is booted again.
    with pytest.raises(ExpectError, match="never said"), warm("hello", until="never said"):
        raise AssertionError("it is there")
    assert warm.told == []


@pytest.mark.parametrize(
    ("host", "private", "why"),
    [
        ("model", True, "on model: the host cannot read private memory"),
        ("qemu-tcg", True, "on qemu-tcg: the host cannot read private memory"),
    ],
)
def test_what_cannot_be_saved_is_skipped_before_it_is_booted(
    warm: Warm, host: str, private: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_boots, "Boot", None)
    with (
        pytest.raises(CannotError, match=f"saving and restoring {why}"),
        warm("exit", until=do_nothing, private=private, host=host),
    ):
        raise AssertionError("it is there")


def do_nothing(_vm: Vm) -> None:
    """Leave the guest where it is."""


def with_default(vm: Vm, word: str = "hello") -> None:
    vm.console.send_line(word)


def test_a_point_is_the_same_for_all_tests(warm: Warm) -> None:
    word = "hello"

    def inner(vm: Vm) -> None:
        vm.console.send_line(word)

    for until in (inner, with_default, lambda _: None, print):
        with pytest.raises(UsageError, match="a function that stands at the top of its module"):
            warm("echo", until=until)
    with pytest.raises(TypeError, match="until"):
        warm("echo")  # type: ignore[call-arg]


def test_what_the_state_depends_on_is_in_the_key() -> None:
    request = make_request("echo")
    changes: dict[str, Any] = {
        "image": b"other", "append": b"x", "memory": 32 << 20, "cpus": 2, "initrd": b"",
        "host": make_request("echo", host="model").host,
    }  # fmt: skip
    keys = {key_of(replace(request, **{name: value}), "x") for name, value in changes.items()}
    long = "x" * 300
    texts = [re.compile(text) for text in ("x", long, long + "y")]
    points: list[Any] = ["x", b"x", ["x", "y"], greet, *texts, re.compile("x", re.DOTALL)]
    points.append(re.compile(b"x"))
    others = {key_of(request, until) for until in points}
    assert len(keys | others) == len(changes) + len(points)
    same: dict[str, Any] = {"timeout": 5.0, "crash": True}
    assert key_of(replace(request, **same), "x") == key_of(request, "x")


def function_of(source: str) -> Any:
    there: dict[str, Any] = {}
    exec(compile(source, "points.py", "exec"), there)
    return there["ready"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("vm.wait()", "vm.stop()"),
        ("vm.console.expect('a')", "vm.console.expect('b')"),
        ("[vm.console.expect(x) for x in 'a']", "[vm.console.expect(x) for x in 'b']"),
        ("1 + 2.0 * vm", "1 - 2.0 * vm"),
        ("vm in {'a', 'b'}", "vm in {'a', 'c'}"),
    ],
)
def test_a_function_is_known_by_what_it_does(before: str, after: str) -> None:
    request = make_request("echo")
    first, again, other = (
        key_of(request, function_of(f"def ready(vm):\n return {body}"))
        for body in (before, before, after)
    )
    assert first == again
    assert first != other


def test_a_key_is_the_same_in_all_processes() -> None:
    source = "def ready(vm):\n return vm in {'a', 'b', 'c', 'd', ('e', 'f')}"
    program = (
        "import sys; from pyvmm.testing.saved_boot_key import _point; there = {'__name__': 'x'}; "
        "exec(compile(sys.argv[1], 'x.py', 'exec'), there); print(_point(there['ready']))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program, source],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


@pytest.mark.parametrize("moment", ["before mkdir looks again", "before it is opened"])
def test_a_folder_that_the_last_one_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "saved"
    mkdir = Path.mkdir
    tries: list[Path] = []

    def removed(self: Path, *arguments: Any, **more: Any) -> None:
        tries.append(self)
        mkdir(self, *arguments, **more)
        if len(tries) == 1:
            self.rmdir()
            if moment == "before mkdir looks again":
                raise FileExistsError(17, "File exists", str(self))

    monkeypatch.setattr(Path, "mkdir", removed)
    with SavedBoots(folder) as saved, saved.lock("x"):
        assert folder.is_dir()
    assert len(tries) == 2
    monkeypatch.undo()
    folder.write_bytes(b"")
    with SavedBoots(folder) as saved, pytest.raises(FileExistsError), saved.lock("x"):
        pass


def test_a_worker_that_is_not_a_local_one_shares_with_no_other_session(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("def pytest_configure(config): config.workerinput = {'workerid': 'gw0'}")
    pytester.makepyfile(
        "def test_it(_pyvmm_saved_boots): print('folder', _pyvmm_saved_boots._folder)"
    )
    for name, shared in (("popen-gw0", "."), ("other", "other")):
        base = pytester.path / "base" / name
        base.parent.mkdir(exist_ok=True)
        done = pytester.runpytest_inprocess(
            "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:terminal",
            f"--basetemp={base}",
        )  # fmt: skip
        wanted = (base.parent / shared / "pyvmm-saved-boots").resolve()
        assert f"folder {wanted}" in done.stdout.str()


def test_a_test_that_leaves_a_guest_open_leaves_none(warm: Warm) -> None:
    vm = warm("echo", until=greet, host="model").__enter__()
    assert vm.outcome is None
    warm.close()
    with pytest.raises(UsageError, match="has been left"):
        vm.console.send_line("x")


def test_what_making_a_boot_took_is_not_what_a_restored_one_has(
    _pyvmm_loop: LoopThread, saved: SavedBoots
) -> None:
    limits = [50.0]
    factory = Booted(
        _pyvmm_loop, saved, lambda _: None, lambda _: BootArguments(timeout=limits[-1])
    )

    boot = factory("echo", until=greet, host="model")
    assert boot.request.timeout == 50
    limits.append(20.0)
    with boot:
        assert boot.request.timeout == 20
    with factory("echo", until=greet, host="model", timeout=7) as vm:
        assert vm._inner.request.timeout == 7


def test_a_boot_of_another_kind_is_not_mixed_in(boot: Boots, warm: Warm) -> None:
    with warm("echo", until=greet, host="model"):
        pass
    with boot("echo", host="model") as vm:
        assert vm.console.transcript == b""


TESTS = """
import pytest

def ready(vm):
    vm.console.send_line("ready")
    vm.console.expect("ready")

@pytest.mark.parametrize("number", range({count}))
def test_it(booted, number):
    with booted("echo", until=ready, host="model") as vm:
        vm.console.send_line(str(number))
        vm.console.expect(str(number))
"""


def test_reports_say_what_was_booted_and_what_was_restored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(count=3))
    done = pytester.runpytest_inprocess("-rP", "-p", "no:cacheprovider", "-p", "no:xdist")
    done.assert_outcomes(passed=3)
    told = [line.partition(":")[0] for line in done.outlines if "echo on the model" in line]
    assert told == ["booted", "restored", "restored"]
    assert "Captured boot call" in done.stdout.str()


@pytest.mark.slow
def test_workers_of_xdist_share_one_boot(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(count=8))
    base = pytester.path / "base"
    done = pytester.runpytest_subprocess(
        "-rP", "-n2", "--dist=each", "-p", "no:cacheprovider", f"--basetemp={base}", timeout=300
    )
    done.assert_outcomes(passed=16)
    told = [line.partition(":")[0] for line in done.outlines if "echo on the model" in line]
    assert sorted(told) == ["booted", *["restored"] * 15]
    assert not (base / "pyvmm-saved-boots").exists()
