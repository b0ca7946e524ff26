# SPDX-License-Identifier: MIT
"""Standard streams of every kind: closed, full, not blocking, and in other encodings."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import bundled_guests
from pyvmm.cli import standard_error
from pyvmm.cli.main import main
from pyvmm.cli.standard_output import encoded, print_answer
from pyvmm.lab.kernel import progress

from .command import ENVIRONMENT, HANG, PYVMM, Outcome, ending, finish, pyvmm, start

ANSWERS = [
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["lab", "run", "--help"],
    ["lifetime", "explore", "--help"],
    ["compare", "--help"],
    ["matrix", "--help"],
    ["guests"],
    ["guests", "--json"],
    ["doctor", "--json"],
    ["measure", "hello"],
    ["lifetime", "show"],
    ["lab", "status"],
    ["lab", "down"],
]
"""Commands that print an answer, and that run nothing."""

each_answer = pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
ENCODINGS = ("ascii", "latin-1", "cp437", "koi8-r", "gb2312", "utf-8")


@pytest.fixture(autouse=True)
def no_lab(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.getbasetemp()))


@contextmanager
def standard_stream(name: str, fd: int, encoding: str = "utf-8") -> Iterator[None]:
    """`fd`, which is closed at the end, as this process's ``sys.stdout`` or ``sys.stderr``."""
    before = getattr(sys, name)
    with open(fd, "w", encoding=encoding, errors="strict") as stream:
        setattr(sys, name, stream)
        try:
            yield
        finally:
            setattr(sys, name, before)


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that has no room and does not block: to read from, and to write to (not closed)."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with open(read_end, "rb"):
        try:
            while True:
                os.write(write_end, b"." * 4096)
        except BlockingIOError:
            yield read_end, write_end


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed() -> int:
    """Stands for one that is closed: see `main`."""
    return os.open("/dev/null", os.O_RDONLY)


# -- standard output --


@pytest.mark.parametrize(
    ("made", "says"), [(full, "No space left on device"), (closed, "Bad file descriptor")]
)
@each_answer
def test_an_answer_that_cannot_be_written(
    arguments: list[str],
    made: Callable[[], int],
    says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with standard_stream("stdout", made()):
        code = main(arguments)
    assert (code, capfd.readouterr().err) == (
        71,
        f"pyvmm: cannot write to standard output: {says}\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["guests"], ["doctor"], ["run", "hello"]])
def test_standard_output_is_closed(arguments: list[str]) -> None:
    outcome = pyvmm(*arguments, prefix=["sh", "-c", 'exec "$@" >&-', "sh"])
    assert (outcome.code, len(outcome.lines)) == (71, 1)
    assert outcome.err.endswith("to standard output: Bad file descriptor\n")


def test_an_answer_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    arrived = bytearray()
    with full_pipe() as (read_end, write_end):

        class Poll:
            """Has the reader take some whenever we wait for room."""

            def register(self, fd: int, events: int) -> None:
                assert (fd, events) == (write_end, select.POLLOUT)

            def poll(self) -> None:
                arrived.extend(os.read(read_end, 10_000))

        with monkeypatch.context() as patched, standard_stream("stdout", write_end):
            patched.setattr(select, "poll", Poll)
            print_answer(text.removesuffix("\n"))
        while more := os.read(read_end, 1 << 20):
            arrived.extend(more)
    assert bytes(arrived).lstrip(b".").decode() == text


@pytest.mark.slow
def test_a_process_whose_output_has_no_room_for_a_while() -> None:
    expected = pyvmm("doctor", "--json").out
    with full_pipe() as (read_end, write_end):
        with ending(start("doctor", "--json", stdout=write_end)) as process:
            os.close(write_end)
            arrived = b"".join(iter(lambda: os.read(read_end, 1 << 16), b""))
            outcome = finish(process)
    assert (outcome.code, outcome.err) == (0, "")
    # Figures that were measured differ from run to run.
    assert arrived.lstrip(b".")[:80] == expected[:80]
    assert arrived[-4:] == expected[-4:]


# -- encodings --


@given(
    st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("─│█▌▏é")),
    st.sampled_from(ENCODINGS),
)
def test_any_text_in_any_encoding_keeps_its_columns(text: str, encoding: str) -> None:
    told = encoded(text, encoding).decode(encoding)
    assert len(told) == len(text)
    assert all(new in (old, "?") or not old.isascii() for old, new in zip(text, told, strict=True))
    assert encoding != "utf-8" or told == text


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("ascii", "-+-|##  caf? \\xff ?"),
        ("latin-1", "-+-|##  café \\xff ?"),
        ("cp437", "─┼─│█▌  café \\xff ?"),
        ("utf-8", "─┼─│█▌▏ café \\xff €"),
    ],
)
def test_what_stands_for_letters_that_are_not_there(encoding: str, told: str) -> None:
    text = "─┼─│█▌▏ café \udcff €"
    assert encoded(text, encoding).decode(encoding) == told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "arguments", [*ANSWERS, ["doctor"], ["lifetime", "show", "file-outlives-vm"]], ids=" ".join
)
def test_every_answer_in_another_encoding(
    arguments: list[str], encoding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if arguments[-1] == "file-outlives-vm":
        assert main(["lifetime", "show"]) == 0
        arguments = [*arguments[:-1], capfd.readouterr().out.split()[0]]
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as reader:
        with standard_stream("stdout", write_end, encoding):
            code = main(arguments)
        told = reader.read().decode(encoding)
    assert (code, capfd.readouterr().err) == (69 if arguments == ["lab", "status"] else 0, "")
    assert told.endswith("\n")
    assert "\\u25" not in told  # No box is written out by number.
    if arguments == ["doctor"]:
        assert "-----" in told
        assert "?" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_process_in_another_locale(environment: dict[str, str]) -> None:
    outcome = pyvmm("doctor", env=environment)
    assert (outcome.code, outcome.err) == (0, "")
    assert "-----" in outcome.out.decode("ascii")


def test_names_that_are_no_text_in_a_listing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = bundled_guests.BundledGuest("hello", Path(os.fsdecode(b"/a\xff/new\nline/hello.img")))
    monkeypatch.setattr(bundled_guests, "all_guests", lambda: [odd])
    assert main(["guests"]) == 0
    assert capfd.readouterr().out == "hello  /a\\xff/new\\x0aline/hello.img\n"


# -- standard error --


@pytest.mark.parametrize("made", [full, closed])
def test_standard_error_does_not_count(made: Callable[[], int]) -> None:
    with standard_stream("stderr", made()):
        assert main(["run", "no-such-guest"]) == 66
        assert main(["run", "--no-such-option"]) == 64
        assert main(["--debug"]) == 64


def test_standard_error_without_room_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_error, "_PATIENCE", 0.05)
    with full_pipe() as (read_end, write_end), standard_stream("stderr", write_end):
        assert main(["run", "no-such-guest"]) == 66
        assert set(os.read(read_end, 1 << 20)) == set(b".")


def test_standard_error_that_gets_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_pipe() as (read_end, write_end):

        class Poll:
            def register(self, fd: int, events: int) -> None:
                assert fd == write_end

            def poll(self, limit: float) -> None:
                assert limit > 0
                os.read(read_end, 8192)

        with monkeypatch.context() as patched, standard_stream("stderr", write_end):
            patched.setattr(select, "poll", Poll)
            assert main(["run", "no-such-guest"]) == 66
        assert b"no-such-guest: no such file" in os.read(read_end, 1 << 20)


def test_standard_error_in_another_encoding() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as reader:
        with standard_stream("stderr", write_end, "ascii"):
            assert main(["run", "gr\u00fc\u00df\udcff\n\x1b[2J"]) == 66
        assert b"read gr??\\xff\\x0a\\x1b[2J: no such file" in reader.read()


def pieces_of(master: int) -> Iterator[bytes]:
    """What a terminal that has been closed has shown."""
    with suppress(OSError):
        while piece := os.read(master, 1 << 16):
            yield piece


def test_bars_on_a_terminal_without_utf8() -> None:
    master, terminal = os.openpty()
    try:
        with standard_stream("stderr", terminal, "ascii"):
            with progress.to_stream(standard_error.user_stream()) as reporting:
                reporting.say("gr\u00fc\u00df [/]\udcff")
                with reporting.stage("[/] compiling", 10, "files") as stage:
                    stage.reach(5)
                    # rich has put something of its own into sys.stderr meanwhile.
                    standard_error.say_to_user("in between")
        told = b"".join(pieces_of(master)).decode("ascii")
    finally:
        os.close(master)
    assert "gr?? [/]\\xff" in told
    assert "[/] compiling" in told
    assert "pyvmm: in between" in told


def test_progress_does_not_count() -> None:
    with standard_stream("stderr", full()):
        with progress.to_stream(standard_error.user_stream()) as reporting:
            with reporting.stage("compiling", 10, "files") as stage:
                stage.reach(5)


# -- standard input of a run --


@pytest.mark.kvm
@pytest.mark.slow
def test_standard_input_that_does_not_block() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with ending(start("run", "echo", stdin=read_end)) as process:
        os.close(read_end)
        assert process.stdout is not None
        for piece in (b"a", b"bc"):
            os.write(write_end, piece)
            assert process.stdout.read(len(piece)) == piece
        os.close(write_end)
        assert finish(process).code == 0


@pytest.mark.kvm
@pytest.mark.slow
def test_streams_that_were_opened_the_wrong_way_round() -> None:
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [*PYVMM, "run", "hello"], stdin=write_end, stdout=read_end, stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )  # fmt: skip
        with ending(process):
            _, err = process.communicate(timeout=HANG)
        outcome = Outcome(process.returncode, b"", err.decode())
    finally:
        os.close(read_end)
        os.close(write_end)
    assert (outcome.code, outcome.lines) == (
        71,
        ["pyvmm: cannot write the guest's console to standard output: Bad file descriptor"],
    )


@each_answer
def test_an_answer_that_nobody_reads_is_no_complaint(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with standard_stream("stdout", write_end):
        assert main(arguments) == 71
    assert capfd.readouterr().err == ""
    assert len(os.listdir("/proc/self/fd")) == open_before
