# SPDX-License-Identifier: MIT
"""Tests that run in the lab, with a process on this machine in the lab's place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.lab.failures import LabError
from pyvmm.lab.settings import KERNEL_VARIABLE, find_kernel
from pyvmm.testing.drivers.presence import IN_LAB
from pyvmm.testing.session import lab_tests, lab_worker
from pyvmm.testing.session.lab_tests import LabTests
from tests.lab.places import HANG, ROOT, qemus_of

pytestmark = pytest.mark.slow
PLUGINS = ("-p", "pyvmm.testing.plugin", "-p", "no:cacheprovider", "--pyvmm-host", "lab")


class LocalProcess:
    """As `RemoteCommand`, for the worker as a child of this process."""

    def __init__(self) -> None:
        self.ending: str | None = None
        self.last_lines = "its last line\n"
        self.process = subprocess.Popen(
            [sys.executable, "-P", lab_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, IN_LAB: "1"},
        )

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def receive_line(self) -> bytes | None:
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        if not line:
            self.ending = f"it ended with {self.process.wait()}"
            return None
        return line[:-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LocalProcess]]:
    """Those that were started, instead of in the lab."""
    started: list[LocalProcess] = []

    def start(_: LabTests) -> LocalProcess:
        started.append(LocalProcess())
        return started[-1]

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(LabTests, "_new_command", start)
    monkeypatch.setattr(lab_tests, "absence", lambda _: None)
    yield started
    assert all(one.process.returncode is not None for one in started)


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only"])
def test_setup_that_is_only_shown_needs_no_lab(
    pytester: pytest.Pytester, processes: list[LocalProcess], option: str
) -> None:
    pytester.makepyfile("def test_it(boot): raise AssertionError('it ran')")
    result = pytester.runpytest_inprocess(*PLUGINS, option)
    result.stdout.fnmatch_lines(["*SETUP * F boot*", "*::test_it[[]lab[]]*"])
    assert not processes
    assert result.ret == 0


def test_reports_are_the_tests_own(
    pytester: pytest.Pytester, processes: list[LocalProcess]
) -> None:
    pytester.makeconftest("")
    pytester.makepyfile(
        test_one="""
        import os
        import pytest

        made = []

        @pytest.fixture(scope="module")
        def module():
            made.append(os.getpid())
            yield
            print("torn down", len(made))

        def test_passes(boot, module, record_property):
            record_property("where", os.getpid())
            assert os.environ["PYVMM_TESTS_IN_LAB"]
            assert os.read(0, 1) == b""
            os.write(1, b"past pytest")

        def test_fails(boot, module):
            print("said on the way")
            assert len(made) == 2, "as it must"

        @pytest.mark.skip(reason="not today")
        def test_skipped(boot): ...

        def test_skips(boot):
            pytest.skip("not here")

        @pytest.mark.xfail(reason="known")
        def test_xfails(boot): assert 0

        @pytest.mark.parametrize("text", ["a/b", "[x]", "\\u00e9"])
        def test_parameters(boot, text): ...

        @pytest.fixture
        def broken(): raise ValueError("in the fixture")

        def test_error(boot, broken): ...

        def test_out_here():
            assert "PYVMM_TESTS_IN_LAB" not in os.environ

        def test_last(boot, module):
            assert len(made) == 1
        """,
        test_two="""
        def test_other_file(boot): ...
        """,
    )
    result = pytester.runpytest_inprocess(*PLUGINS, "-rs", "--junitxml=report.xml", "-k", "test_")
    result.assert_outcomes(passed=7, failed=1, errors=1, skipped=2, xfailed=1)
    assert len(processes) == 1
    result.stdout.fnmatch_lines(
        [
            "*_ ERROR at setup of test_error[[]lab[]] _*",
            "E *ValueError: in the fixture",
            ">       assert len(made) == 2, *",
            "E       AssertionError: as it must",
            "*Captured stdout call*",
            "said on the way",
            "SKIPPED*not today",
            "SKIPPED*not here",
        ]
    )
    tree = ElementTree.parse(pytester.path / "report.xml")
    (where,) = tree.iter("property")
    assert where.attrib == {"name": "where", "value": str(processes[0].process.pid)}


def test_a_lab_that_dies_is_replaced_once(
    pytester: pytest.Pytester, processes: list[LocalProcess]
) -> None:
    pytester.makepyfile(
        """
        import os, signal

        def test_before(boot): ...

        def test_dies(boot):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_between(boot): ...

        def test_dies_again(boot):
            os._exit(3)

        def test_after(boot): raise AssertionError("it ran")

        def test_out_here(): ...
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS)
    result.assert_outcomes(passed=3, failed=2, errors=1)
    assert len(processes) == 2
    gone = "cannot run the test in the lab: the process of the lab's tests is gone: it ended with"
    assert [line for line in result.outlines if line.startswith(gone)] == [
        f"{gone} 3; it said last: its last line",  # The error, which comes first: test_after.
        f"{gone} -9; it said last: its last line",
        f"{gone} 3; it said last: its last line",
    ]


@pytest.mark.parametrize("how", ["pytest.exit('enough')", "raise KeyboardInterrupt('enough')"])
def test_a_test_that_ends_the_session_ends_this_one(
    pytester: pytest.Pytester, processes: list[LocalProcess], how: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        def test_before(boot): ...

        def test_ends(boot):
            {how}

        def test_after(boot): raise AssertionError("it ran")
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["!*Exit: enough !*"])
    assert len(processes) == 1


def test_a_file_that_cannot_be_collected_there(
    pytester: pytest.Pytester, processes: list[LocalProcess]
) -> None:
    pytester.makepyfile(
        """
        import os

        assert "PYVMM_TESTS_IN_LAB" not in os.environ, "not in there"

        def test_it(boot): ...
        """
    )
    result = pytester.runpytest_inprocess(*PLUGINS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["cannot run *::test_it[[]lab[]] in the lab: *", "*not in there*"])
    assert len(processes) == 1


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, pytest.exit.Exception])
def test_an_interruption_ends_the_process(
    pytester: pytest.Pytester,
    processes: list[LocalProcess],
    monkeypatch: pytest.MonkeyPatch,
    interrupted: type[BaseException],
) -> None:
    def interrupt(_: LocalProcess) -> None:
        raise interrupted("by the test")

    monkeypatch.setattr(LocalProcess, "receive_line", interrupt)
    pytester.makepyfile("def test_it(boot): ...")
    result = pytester.runpytest_inprocess(*PLUGINS, no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(processes) == 1


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (HostLacksError("start a lab", "the kernel has no KVM"), {"skipped": 2}),
        (LabError("start a lab", "its kernel panicked"), {"errors": 2}),
    ],
)
def test_a_lab_that_does_not_start(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    failure: PyvmmError,
    outcome: dict[str, int],
) -> None:
    attempts = []

    def start(_: LabTests) -> LocalProcess:
        attempts.append(failure)
        raise failure

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(LabTests, "_new_command", start)
    monkeypatch.setattr(lab_tests, "absence", lambda _: None)
    pytester.makepyfile("def test_it(boot): ...\n\ndef test_too(boot): ...")
    result = pytester.runpytest_inprocess(*PLUGINS, "-rs")
    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines([f"*{failure.cause}*"])
    assert len(attempts) in {1, 6}  # What this machine lacks is lacked for good.
    required = pytester.runpytest_inprocess(*PLUGINS, "--pyvmm-require", "lab")
    required.assert_outcomes(errors=2)


@pytest.fixture(scope="module")
def kernel() -> str:
    """The lab's, found before pytester makes itself a home."""
    return str(find_kernel(None))


@pytest.mark.lab
def test_in_the_lab_itself(
    kernel: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, which sees this folder below /tmp; it dies in the middle."""
    place = pytester.path / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv(KERNEL_VARIABLE, kernel)
    pytester.makepyfile(
        """
        import ctypes, os

        def test_private_memory(boot):
            with boot("hello", private=True) as vm:
                assert vm.host.value == "lab"
                assert vm.wait().status == 0

        def test_the_end(boot):
            # LINUX_REBOOT_CMD_RESTART: of the lab, whose first process is not asked.
            assert os.environ["PYVMM_TESTS_IN_LAB"]
            ctypes.CDLL(None).reboot(0x01234567)
        """
    )
    result = pytester.runpytest_subprocess("--pyvmm-host=lab")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["cannot * the channel to it was lost *"])
    deadline = time.monotonic() + HANG
    while qemus_of(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not qemus_of(place)


CONFTEST = """
    import os
    from tests.testing.test_lab_tests import LocalProcess
    from pyvmm.testing.session import lab_tests

    def start(_):
        process = LocalProcess()
        with open("processes", "a") as file:
            print(process.process.pid, file=file)
        return process

    lab_tests.LabTests._new_command = start
    lab_tests.absence = lambda _: None
"""


def test_workers_of_xdist_and_what_a_killed_one_leaves(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its process; one that is killed in the middle of a test takes its own along."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, signal
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_in_there(boot, number):
            assert os.environ["PYVMM_TESTS_IN_LAB"]

        def test_kills_its_worker(boot):
            os.kill(os.getppid(), signal.SIGKILL)

        @pytest.mark.parametrize("number", range(4))
        def test_afterwards(boot, number): ...
        """
    )
    result = pytester.runpytest_subprocess(*PLUGINS, "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=10, failed=1)
    result.stdout.fnmatch_lines(["worker 'gw?' crashed while running *::test_kills_its_worker*"])
    deadline = time.monotonic() + HANG
    pids = (pytester.path / "processes").read_text().split()
    assert len(pids) >= 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
