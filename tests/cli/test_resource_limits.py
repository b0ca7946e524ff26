# SPDX-License-Identifier: MIT
"""Where a limit is too low, one line names it with its value and says how to raise it."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from pyvmm.cli import resource_limits
from pyvmm.cli.main import main
from pyvmm.cli.resource_limits import Scarce, describe, limit_behind
from pyvmm.errors import PyvmmError, SystemCallError
from tests.cli.command import pyvmm

LIMITS = {
    resource.RLIMIT_NOFILE: (20, 4096),
    resource.RLIMIT_NPROC: (30, 30),
    resource.RLIMIT_AS: (300 << 20, resource.RLIM_INFINITY),
    resource.RLIMIT_FSIZE: (100 << 10, 200 << 10),
    resource.RLIMIT_STACK: (8 << 20, resource.RLIM_INFINITY),
}


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of `LIMITS`, and none else."""
    nothing = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: LIMITS.get(which, nothing))
    monkeypatch.setattr(resource_limits, "_stack_does_not_fit", lambda: False)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - that is what is looked at
        return caught


def fork_refused() -> BaseException:
    def _execute_child() -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    try:
        _execute_child()
    except OSError as error:
        return error
    raise AssertionError


class UcError(Exception):
    """As Unicorn's, of which only the number tells."""

    __module__ = "unicorn.unicorn_py3.unicorn"
    errno = 1


FILES = "may have 20 files open (ulimit -n)"
TASKS = "may have 30 processes and threads (ulimit -u)"
MEMORY = "may have 307200 KiB of address space (ulimit -v)"
SIZE = "may write files of 100 KiB, guest RAM included (ulimit -f)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, "x"), FILES),
        (SystemCallError("open", errno.EMFILE, "x"), FILES),
        (PyvmmError("start QEMU", "it said: Too many open files"), FILES),
        (ImportError("x.so: cannot open shared object file: Too many open files"), FILES),
        (OSError(errno.ENFILE, "x"), "files open (fs.file-max)"),
        (OSError(errno.ENOMEM, "x"), MEMORY),
        (MemoryError(), MEMORY),
        (SystemError("error return without exception set"), MEMORY),
        (UcError(), MEMORY),
        (ImportError("x.so: failed to map segment from shared object"), MEMORY),
        (PyvmmError("start QEMU", "allocate: Cannot allocate memory"), MEMORY),
        (OSError(errno.EFBIG, "x"), SIZE),
        (RuntimeError("can't start new thread"), TASKS),
        (fork_refused(), TASKS),
        (PyvmmError("start QEMU", "qemu: qemu_thread_create: Resource temporarily ..."), TASKS),
        (raised(ValueError("x"), MemoryError()), MEMORY),
        (ExceptionGroup("x", [ValueError(), ExceptionGroup("y", [OSError(24, "x")])]), FILES),
        (BlockingIOError(errno.EAGAIN, "a pipe is full"), None),
        (OSError(errno.ENOENT, "x"), None),
        (RuntimeError("x"), None),
        (SystemError("x"), None),
        (PyvmmError("x", "y"), None),
    ],
    ids=str,
)
def test_the_limit_behind_an_error(low: None, error: BaseException, expected: str | None) -> None:
    limit = limit_behind(error)
    if expected is None:
        assert limit is None
    else:
        assert limit is not None
        assert expected in limit.text


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EMFILE, "raise it: ulimit -n 1024"),
        (errno.ENOMEM, "raise it: ulimit -v unlimited"),
        (errno.EFBIG, "raise it: ulimit -f 200"),
    ],
)
def test_how_to_raise_it(low: None, number: int, remedy: str) -> None:
    limit = limit_behind(OSError(number, "x"))
    assert limit is not None
    assert limit.remedy == remedy


def test_a_hard_limit_is_told(low: None) -> None:
    limit = limit_behind(RuntimeError("can't start new thread"))
    assert limit is not None
    assert "in a new shell or as root (ulimit -u unlimited)" in limit.remedy


def test_a_thread_may_lack_address_space(low: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_limits, "_stack_does_not_fit", lambda: True)
    limit = limit_behind(RuntimeError("can't start new thread"))
    assert limit is not None
    assert MEMORY in limit.text


def test_a_control_group_may_be_what_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY,) * 2)
    said = "the control group /a may have (memory.max) 5000"
    monkeypatch.setattr(resource_limits, "_group_limit", lambda _name: said)
    limit = limit_behind(MemoryError())
    assert limit is not None
    assert limit.text == f"{said} bytes of memory"


@pytest.mark.parametrize(
    ("most", "said"), [(1, "1 process or thread"), (21, "21 processes and threads")]
)
def test_one_process_is_one(most: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (most, most))
    monkeypatch.setattr(resource_limits, "_stack_does_not_fit", lambda: False)
    limit = describe(Scarce.TASKS)
    assert limit is not None
    assert limit.text == f"this user may have {said} (ulimit -u)"
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY,) * 2)
    group = f"the control group /a may have (pids.max) {most}"
    monkeypatch.setattr(resource_limits, "_group_limit", lambda _name: group)
    limit = describe(Scarce.TASKS)
    assert limit is not None
    assert limit.text == f"the control group /a may have (pids.max) {said}"


def test_no_limit_is_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(resource_limits, "_group_limit", lambda _name: "")
    assert limit_behind(OSError(errno.EFBIG, "x")) is None
    assert limit_behind(MemoryError()) is None


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_the_command_line_says_so(
    low: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("pyvmm.cli.guests.command", lambda _options: fail())
    assert main(["guests"]) == 71
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyvmm: cannot go on: ")
    assert "(ulimit -" in line
    assert "; raise it: ulimit -" in line


def limited(arguments: str) -> tuple[str, ...]:
    """What runs a command under ``ulimit ARGUMENTS``."""
    return ("sh", "-c", f'{arguments}; exec "$@"', "sh")


def assert_named(code: int, err: str, letter: str, value: int) -> None:
    (line,) = err.splitlines()
    assert code == 71, line
    assert line.startswith("pyvmm: cannot ")
    assert f"(ulimit -{letter}); raise it" in line
    assert f" {value} " in line


LOW = [("n", 6), ("n", 8), ("n", 10), ("v", 300_000)]


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "value"), [*LOW, ("f", 100)])
def test_a_run_on_the_model(letter: str, value: int) -> None:
    # In sh the unit of files is 512 bytes.
    given = 2 * value if letter == "f" else value
    done = pyvmm("run", "hello", "--host", "model", prefix=limited(f"ulimit -{letter} {given}"))
    assert_named(done.code, done.err, letter, value)


@pytest.mark.slow
@pytest.mark.kvm
@pytest.mark.parametrize(("letter", "value"), LOW)
def test_a_run_on_kvm(letter: str, value: int) -> None:
    done = pyvmm("run", "hello", "--host", "kvm", prefix=limited(f"ulimit -{letter} {value}"))
    assert_named(done.code, done.err, letter, value)


@pytest.mark.slow
@pytest.mark.parametrize("most", [22_000, 24_000])  # With less, Python itself says more.
def test_memory_is_short_before_a_run_begins(most: int) -> None:
    done = pyvmm("run", "hello", "--host", "model", prefix=limited(f"ulimit -d {most}"))
    assert_named(done.code, done.err, "d", most)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_other_limits_do_not_matter(host: str) -> None:
    low = limited("ulimit -c 0; ulimit -l 0; ulimit -s 256; ulimit -n 64")
    done = pyvmm("run", "exit", "--append", "3", "--host", host, prefix=low)
    assert (done.code, done.err) == (3, "")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a user without other processes")
@pytest.mark.parametrize(
    ("host", "most"),
    # KVM itself starts a thread: KVM_RUN fails where it cannot.
    [("model", 1), ("model", 2), *(pytest.param("kvm", n, marks=pytest.mark.kvm) for n in (1, 2))],
)
def test_the_limit_of_processes(host: str, most: int) -> None:
    uid = str(1_000_000 + os.getpid())
    # Not bound by the permissions of folders on the way here, but by the limit.
    user = (
        "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups",
        "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override",
    )  # fmt: skip
    prefix = ("bash", *limited(f"ulimit -u {most}")[1:], *user)
    done = pyvmm("run", "hello", "--host", host, prefix=prefix)
    assert_named(done.code, done.err, "u", most)


@pytest.mark.slow
@pytest.mark.qemu
def test_a_child_that_runs_into_it(tmp_path: Path) -> None:
    done = pyvmm("compare", "hello", prefix=limited("ulimit -v 400000"), cwd=tmp_path)
    assert_named(done.code, done.err, "v", 400_000)
