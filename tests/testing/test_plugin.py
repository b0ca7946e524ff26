# SPDX-License-Identifier: MIT
"""The plugin in a user's pytest run: what it loads, what failures look like, what is left over."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyvmm.testing import plugin
from pyvmm.testing.session import default_timeout

PLUGINS = ("-p", "pyvmm.testing.plugin", "-p", "no:cacheprovider", "-W", "error")


@pytest.fixture(autouse=True)
def _plugins_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, test: str, *arguments: str, **outcomes: int) -> pytest.RunResult:
    pytester.makepyfile(test)
    result = pytester.runpytest_inprocess(*PLUGINS, *arguments)
    result.assert_outcomes(**outcomes)
    return result


def test_a_failure_shows_the_tests_line_and_none_of_ours(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_it(boot):
            with boot("hello") as vm:
                vm.console.expect("Hello to nobody")
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        [
            '>           vm.console.expect("Hello to nobody")',
            "E           *ExpectError: expect 'Hello to nobody': the guest ended without it: *",
            "E           nearest: *Hello from*",
            "E           the console ended with:",
            "E             | command line:*",
            "*test_a_failure_shows*.py:3: ExpectError",
        ],
        consecutive=False,
    )
    assert "pyvmm/testing/" not in result.stdout.str()


def test_so_does_one_that_a_signal_has_struck(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.timeout(1)
        def test_it(boot):
            with boot("hang", host="model", timeout=60) as vm:
                vm.console.expect("never", timeout=60)
        """,
        "-p", "pytest_timeout", failed=1,
    )  # fmt: skip
    result.stdout.fnmatch_lines(
        ['>           vm.console.expect("never", timeout=60)', "E *Failed: Timeout *"]
    )
    # Before it pytest-timeout itself prints all threads' stacks.
    report = result.stdout.str().partition("= FAILURES =")[2]
    for ours in ("pyvmm/testing/", "loop_thread", "concurrent/futures"):
        assert ours not in report


def test_a_panic_that_nobody_looked_at_points_at_the_block(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        def test_it(boot):
            with boot("panic") as vm:
                with pytest.raises(AssertionError, match="ended without it"):
                    vm.console.expect("never")
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        ['>       with boot("panic") as vm:', "E *GuestFailedError: *panic*"]
    )


def test_a_test_that_has_failed_by_itself_says_why(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest

        def test_it(boot):
            with boot("panic") as vm:
                with pytest.raises(AssertionError, match="ended without it"):
                    vm.console.expect("never")
                assert 1 == 2
        """,
        failed=1,
    )
    assert "GuestFailedError" not in result.stdout.str()
    result.stdout.fnmatch_lines(["E *assert 1 == 2"])


CANNOT = """
import pytest

@pytest.fixture
def vm(boot):
    with boot("hello", host="model") as vm:
        yield vm

@pytest.fixture
def converted(vm):
    vm.convert(0x1000, 0x1000, "private")

def test_by_itself(vm):
    vm.convert(0x1000, 0x1000, "private")

def test_by_its_fixture(converted):
    pass
"""


def test_what_a_host_cannot_do_is_a_skip_with_the_reason(pytester: pytest.Pytester) -> None:
    result = run(pytester, CANNOT, "-rs", skipped=2)
    result.stdout.fnmatch_lines(
        ["SKIPPED * test_what_a_host_cannot*.py:*: *on model: the machine has no private memory"]
    )
    assert "plugin.py" not in result.stdout.str()


def test_a_block_that_is_never_left_ends_with_its_test(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        import threading

        kept = []

        def test_forgets(boot):
            for _ in range(2):
                kept.append(boot("hang"))
                kept[-1].__enter__()

        def test_nothing_is_left():
            assert not [one for one in threading.enumerate() if one.name.startswith("vcpu")]
        """,
        passed=2,
    )
    assert not [one for one in threading.enumerate() if one.name.startswith("vcpu")]


def test_a_boot_that_was_not_entered_says_so(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_it(boot):
            boot("hello").console.expect("Hello")
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(["E *with boot(...) as vm: vm.console"])


ASYNCHRONOUS = """
import pytest

@pytest.fixture
def anyio_backend(request):
    return getattr(request, "param", "trio")

@pytest.mark.{mark}
async def test_it(async_boot):
    async with async_boot("exit", append="9") as vm:
        assert (await vm.wait()).status == 9

@pytest.mark.{mark}
async def test_a_failure(async_boot):
    async with async_boot("hello") as vm:
        await vm.console.expect("nothing of the kind")

@pytest.mark.{mark}
async def test_a_skip(async_boot):
    async with async_boot("hello") as vm:
        await vm.convert(0x1000, 0x1000, "private")

@pytest.mark.{mark}
async def test_a_block_that_is_never_left(async_boot):
    await async_boot("hang").__aenter__()

def test_nothing_is_left():
    import threading
    assert not [one for one in threading.enumerate() if one.name.startswith("vcpu")]
"""


@pytest.mark.parametrize(
    ("mark", "plugin"),
    [
        ("trio", "pytest_trio.plugin"),
        pytest.param("anyio", "anyio", marks=pytest.mark.slow),
    ],
)
def test_asynchronous_tests(pytester: pytest.Pytester, mark: str, plugin: str) -> None:
    pytest.importorskip(plugin)
    module = "anyio.pytest_plugin" if plugin == "anyio" else plugin
    result = run(
        pytester, ASYNCHRONOUS.format(mark=mark), "-p", module, passed=3, failed=1, skipped=1
    )
    result.stdout.fnmatch_lines(["*ExpectError: expect 'nothing of the kind'*"])


def test_asyncio_is_told_what_to_do(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import asyncio

        async def main(async_boot):
            async with async_boot("hello"):
                pass

        def test_it(async_boot):
            asyncio.run(main(async_boot))
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(["E *machines live in trio; have the test run on trio *"])


LIMITED = """
import pytest

@pytest.mark.timeout(100)
def test_mark(boot):
    assert boot("hello").request.timeout == {mark}

@pytest.mark.timeout(timeout=50)
def test_mark_by_name(async_boot):
    assert async_boot._defaults({{}})["timeout"] == 45

def test_no_mark(boot):
    assert boot("hello").request.timeout == {no_mark}

def test_said(boot):
    assert boot("hello", timeout=7).request.timeout == 7
"""


@pytest.mark.parametrize(
    ("arguments", "mark", "no_mark"),
    [
        ((), 90, 60),
        (("--timeout=200",), 90, 180),
        (("-o", "timeout=200"), 90, 180),
        (("--timeout=0",), 90, 60),
        (("--timeout=200", "--pyvmm-timeout=80"), 80, 80),
    ],
)
def test_a_boot_ends_before_pytest_timeout_ends_its_test(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    mark: float,
    no_mark: float,
) -> None:
    for module in (plugin, default_timeout):
        monkeypatch.setattr(module, "monotonic", lambda: 0.0)
    test = LIMITED.format(mark=mark, no_mark=no_mark)
    run(pytester, test, "-p", "pytest_timeout", *arguments, passed=4)


LATE = """
import pytest
from pyvmm.testing.session import default_timeout

@pytest.fixture
def late(boot, clock):
    clock.append(30)

@pytest.mark.timeout(100)
def test_late(boot, late, clock):
    assert boot("hello").request.timeout == 60
    clock.append(80)
    assert boot("hello").request.timeout == 10
    clock.append(98)
    assert boot("hello").request.timeout == 1

@pytest.mark.timeout(100, func_only=True)
def test_of_the_function_only(boot, late, clock):
    assert boot("hello").request.timeout == 90
    clock.append(80)
    assert boot("hello").request.timeout == 40
"""


def test_a_boot_that_begins_late_has_what_is_left(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0.0]

    class Clock:
        @pytest.fixture
        def clock(self) -> list[float]:
            return times

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(self) -> None:
            times.append(0.0)

    for module in (plugin, default_timeout):
        monkeypatch.setattr(module, "monotonic", lambda: times[-1])
    pytester.makepyfile(LATE)
    result = pytester.inline_run(*PLUGINS, "-p", "pytest_timeout", plugins=[Clock()])
    result.assertoutcome(passed=2)


def test_a_guest_for_a_whole_module(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        import pytest

        @pytest.fixture(scope="module")
        def vm(session_boot):
            with session_boot("echo", timeout=600) as vm:
                yield vm

        @pytest.mark.parametrize("word", ["one", "two"])
        def test_it_answers(vm, word):
            vm.console.send_line(word)
            assert vm.console.expect(word + "\\n").before == b""
        """,
        passed=2,
    )


def test_collecting_and_planning_boot_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CANNOT)
    for option in ("--collect-only", "--setup-plan"):
        assert pytester.runpytest_inprocess(*PLUGINS, option).ret == 0


def test_items_without_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        class Item(pytest.Item):
            def runtest(self):
                assert not hasattr(self, "fixturenames")

        class File(pytest.File):
            def collect(self):
                yield Item.from_parent(self, name="one")

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".thing":
                return File.from_parent(parent, path=file_path)
        """
    )
    pytester.makefile(".thing", "")
    pytester.runpytest_inprocess(*PLUGINS).assert_outcomes(passed=1)


LOADED = """
import sys

def pytest_unconfigure(config):
    heavy = {"trio", "cffi", "_cffi_backend", "unicorn", "asyncio", "rich"} & set(sys.modules)
    ours = {name for name in sys.modules if name.startswith("pyvmm")}
    print("heavy:", *sorted(heavy))
    print("ours:", *sorted(ours))
"""


@pytest.mark.slow
def test_a_run_that_boots_nothing_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(LOADED)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*PLUGINS)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "heavy:",
            "ours: pyvmm pyvmm.testing pyvmm.testing.images pyvmm.testing.images.collecting "
            "pyvmm.testing.plugin pyvmm.testing.session pyvmm.testing.session.default_timeout "
            "pyvmm.testing.session.ktap_reports pyvmm.testing.session.reporting",
        ]
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_guests_along_and_no_other_test(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import os, signal

        def test_before(boot):
            with boot("exit", append="3") as vm:
                assert vm.wait().status == 3

        def test_killed(boot):
            with boot("hang") as vm:
                vm.console.expect("hanging")
                with open("pid", "w") as file:
                    print(os.getpid(), file=file)
                os.kill(os.getpid(), signal.SIGKILL)

        def test_behind(boot):
            with boot("exit", append="5") as vm:
                assert vm.wait().status == 5
        """
    )
    result = pytester.runpytest_subprocess(*PLUGINS, "-p", "xdist", "-n1")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running '*::test_killed'*"])
    assert not Path("/proc", Path("pid").read_text().strip()).exists()


WAITS = """
def test_it(boot):
    with boot("hang") as vm:
        vm.console.expect("hanging")
        open("waits", "w").close()
        vm.wait()
"""


WAITS_IN_TRIO = """
import pytest

@pytest.mark.trio
async def test_it(async_boot):
    async with async_boot("hang") as vm:
        await vm.console.expect("hanging")
        open("waits", "w").close()
        await vm.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "plugins", "ends"),
    # To pytest-trio an interruption is a failure among others, in a group.
    [(WAITS, (), {2}), (WAITS_IN_TRIO, ("-p", "pytest_trio.plugin"), {1, 2})],
    ids=["boot", "async_boot"],
)
def test_control_c_ends_the_wait_and_the_guest(
    pytester: pytest.Pytester, test: str, plugins: tuple[str, ...], ends: set[int]
) -> None:
    pytester.makepyfile(test)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGINS, *plugins],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        while not Path("waits").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.communicate()[0].decode()
    assert process.returncode in ends
    assert "KeyboardInterrupt" in told
    assert "Exception ignored" not in told
